//! Linear layers over the quantized weights of a checkpoint.

use ir::ops::{Epilogue, Epilogues, FusedLinear, Quantize, QuantizeBlocks, Quantized};
use ir::{GraphError, Op, Value};
use plan::DType;

use super::Builder;
use crate::quantized::{Activations, CodedLinear};

impl Builder<'_> {
    /// The projection of a quantized module: its name and the dtype of its result, as for `linear`.
    pub(super) fn coded_linear(
        &mut self,
        (name, to): (&str, Option<DType>),
        x: Value,
        coded: &CodedLinear,
        bias: &str,
    ) -> Result<Value, GraphError> {
        let result = to.or(self.graph.tensor(x).map(|ty| ty.dtype));
        let codes = self.constant(&coded.codes)?;
        let scale = self.scale(&coded.scale)?;
        let zero = coded.zero.as_ref().map(|zero| self.constant(zero)).transpose()?;
        let (x, x_scale) = self.activations(name, x, &coded.x)?;
        let bias = if self.constants.contains_key(bias) { Some(self.weight(bias)?) } else { None };
        let fused = FusedLinear {
            prologue: None,
            quantized: Quantized { x: x_scale.is_some(), weight: true, zero_point: zero.is_some() },
            epilogue: Epilogues(bias.iter().map(|_| Epilogue::Bias).collect()),
            to: if x_scale.is_some() { result } else { to },
            quantize_to: None,
        };
        let operands: Vec<Value> =
            [Some(x), Some(codes), x_scale, Some(scale), zero, bias].into_iter().flatten().collect();
        self.op(name, fused, &operands)
    }

    /// Activations as the product reads them, and their scales if they are quantized.
    fn activations(
        &mut self,
        name: &str,
        x: Value,
        activations: &Activations<String>,
    ) -> Result<(Value, Option<Value>), GraphError> {
        let (codes, scale) = (format!("{name}.x"), format!("{name}.x_scale"));
        match activations {
            Activations::Numbers => Ok((x, None)),
            Activations::Dynamic { to, cols } => {
                let quantize = QuantizeBlocks { to: *to, rows: None, cols: *cols };
                let id = self.graph.add(Op::new(quantize), &[x], &[&codes, &scale])?;
                let mut results = self.graph.results(id);
                let codes = self.graph.result(id);
                Ok((codes, results.nth(1)))
            }
            Activations::Static { to, scale } => {
                let scale = self.scale(scale)?;
                Ok((self.op(&codes, Quantize { to: *to }, &[x, scale])?, Some(scale)))
            }
        }
    }

    /// A constant of scales, in f32: casts are computed while the plan is written, and lose nothing.
    fn scale(&mut self, key: &str) -> Result<Value, GraphError> {
        let constant = self.constant(key)?;
        self.cast(constant, DType::F32)
    }
}
