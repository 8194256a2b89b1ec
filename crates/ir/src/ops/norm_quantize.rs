//! A norm whose values nobody wants but as codes.

use plan::DType;

use super::{QuantizeBlocks, RmsNorm};
use crate::{Graph, HostTensor, KvState, OpClass, OpId, Patch, Semantics, Type, TypeError, Value, op};

op! {
    /// `quantize_blocks` of `rms_norm(x, weight)`, which is rounded to `norm` between the two: of each row, and `cols`
    /// columns, all where they are not given. Results are the codes, of dtype `to`, and the scales in f32.
    pub struct RmsNormQuantize = "rms_norm_quantize" (x, weight) {
        eps: f32, norm: DType, to: DType, cols: Option<u32>
    }
}

impl RmsNormQuantize {
    /// The two ops that it is, over an `x` of this dtype.
    fn parts(&self, x: DType) -> (RmsNorm, QuantizeBlocks) {
        let norm = RmsNorm { eps: self.eps, head_dim: None, to: (self.norm != x).then_some(self.norm) };
        (norm, QuantizeBlocks { to: self.to, rows: None, cols: self.cols })
    }
}

impl Semantics for RmsNormQuantize {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (norm, blocks) = self.parts(operands[0].tensor()?.dtype);
        let normed = norm.infer(operands)?;
        blocks.infer(&normed.iter().collect::<Vec<_>>())
    }

    fn eval(&self, operands: &[&HostTensor], kv: &mut KvState) -> Result<Vec<HostTensor>, String> {
        // what x was stored in does not matter: values are rounded here
        let (norm, blocks) = self.parts(self.norm);
        let normed: Vec<HostTensor> =
            norm.eval(operands, kv)?.into_iter().map(|normed| normed.rounded(self.norm)).collect();
        blocks.eval(&normed.iter().collect::<Vec<_>>(), kv)
    }

    fn expand(&self, graph: &Graph, id: OpId) -> Option<Patch> {
        let [x, weight] = graph.operands_of(id)?;
        let (norm, blocks) = self.parts(graph.tensor(x)?.dtype);
        let mut patch = Patch::new();
        let normed = patch.add(graph, norm, &[x.into(), weight.into()]);
        let codes = patch.add(graph, blocks, &[normed]);
        patch.replace(graph.result(id), codes);
        patch.replace(Value { op: id, result: 1 }, codes.result(1));
        Some(patch)
    }
}
