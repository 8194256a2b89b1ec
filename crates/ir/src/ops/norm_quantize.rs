//! A norm whose result is only used quantized.

use plan::DType;

use super::quantize::{expect_scale_of_all, quantize};
use super::{Quantize, QuantizeBlocks, RmsNorm};
use crate::{Graph, HostTensor, KvState, OpClass, OpId, Patch, Semantics, Type, TypeError, Value, op, type_error};

op! {
    /// `rms_norm(x, weight)`, rounded to `norm`, then quantized to dtype `to`: as by `quantize_blocks` with one row and
    /// `cols` columns per block, or whole rows; the second result are the scales in f32. With a `scale` `[1, 1]` it is
    /// quantized as by `quantize`, and there is no second result.
    pub struct RmsNormQuantize = "rms_norm_quantize" (x, weight; scale) {
        eps: f32, norm: DType, to: DType, cols: Option<u32>
    }
}

impl RmsNormQuantize {
    /// Its norm, for an `x` of this dtype.
    fn norm(&self, x: DType) -> RmsNorm {
        RmsNorm { eps: self.eps, head_dim: None, to: (self.norm != x).then_some(self.norm) }
    }

    fn blocks(&self) -> QuantizeBlocks {
        QuantizeBlocks { to: self.to, rows: None, cols: self.cols }
    }
}

impl Semantics for RmsNormQuantize {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let normed = self.norm(operands[0].tensor()?.dtype).infer(&operands[..2])?;
        let Some(scale) = operands.get(2) else { return self.blocks().infer(&normed.iter().collect::<Vec<_>>()) };
        expect_scale_of_all(scale.tensor()?)?;
        match self.cols {
            Some(_) => type_error("expected either `cols` or a scale"),
            None => Quantize { to: self.to }.infer(&[&normed[0], scale]),
        }
    }

    fn eval(&self, operands: &[&HostTensor], kv: &mut KvState) -> Result<Vec<HostTensor>, String> {
        // the dtype of x does not matter: values are rounded here
        let normed = self.norm(self.norm).eval(&operands[..2], kv)?;
        let normed = normed.into_iter().map(|normed| normed.rounded(self.norm)).collect::<Vec<_>>();
        match operands.get(2) {
            Some(scale) => Ok(vec![quantize(&[&normed[0], scale], self.to)]),
            None => self.blocks().eval(&normed.iter().collect::<Vec<_>>(), kv),
        }
    }

    fn expand(&self, graph: &Graph, id: OpId) -> Option<Patch> {
        let operands = graph.operands(id);
        let (x, weight) = (*operands.first()?, *operands.get(1)?);
        let mut patch = Patch::new();
        let normed = patch.add(graph, self.norm(graph.tensor(x)?.dtype), &[x.into(), weight.into()]);
        match operands.get(2) {
            Some(scale) => {
                let codes = patch.add(graph, Quantize { to: self.to }, &[normed, (*scale).into()]);
                patch.replace(graph.result(id), codes);
            }
            None => {
                let codes = patch.add(graph, self.blocks(), &[normed]);
                patch.replace(graph.result(id), codes);
                patch.replace(Value { op: id, result: 1 }, codes.result(1));
            }
        }
        Some(patch)
    }
}
