//! Shared by the kernels for few rows: the template arguments after their configuration, and operands.

use ir::Value;
use ir::ops::{Norm, Prologue};

use super::Shape;
use crate::kernels::cuda::body::{c_float, c_type};
use crate::kernels::cuda::norm;
use crate::kernels::cuda::quantized::QuantizedOperands;
use crate::{Refusal, Site};

/// The template arguments after the configuration, up to the last that differs from its default.
pub(super) struct Arguments {
    product: &'static str,
    gated: bool,
    x: &'static str,
    norm_weight: &'static str,
    /// Number of rows that are normed.
    normed: u64,
    eps: f32,
    centered: bool,
    formula: bool,
    /// Those of quantized operands.
    quantized: Option<String>,
    bias: &'static str,
}

impl Arguments {
    /// Those of a linear layer that norms `rows` rows, if it has a prologue.
    pub fn of(site: &Site<'_>, shape: &Shape, quantized: &QuantizedOperands, rows: u64) -> Result<Arguments, Refusal> {
        let product = shape.product_type(site);
        let mut arguments = Arguments {
            product,
            gated: shape.gated(),
            x: if quantized.x.is_some() { c_type(quantized.x_dtype) } else { product },
            norm_weight: product,
            normed: 0,
            eps: 0.0,
            centered: false,
            formula: shape.formula().is_some(),
            quantized: quantized.any.then(|| quantized.arguments(shape.k)),
            bias: product,
        };
        if let Some(bias) = shape.bias() {
            arguments.bias = c_type(site.tensor(bias)?.dtype);
        }
        if let Some((Prologue { norm, eps, .. }, operands)) = &shape.parts.prologue {
            let (x, norm_weight) =
                (c_type(site.tensor(shape.parts.x)?.dtype), c_type(norm::weight_dtype(site, operands)?));
            arguments =
                Arguments { x, norm_weight, normed: rows, eps: *eps, centered: *norm == Norm::Layer, ..arguments };
        }
        Ok(arguments)
    }

    /// As text, each after a comma.
    pub fn text(&self) -> String {
        let Arguments { product, gated, x, norm_weight, normed, centered, bias, .. } = self;
        let list = [
            (*gated, gated.to_string()),
            (*normed > 0, format!("{x}, {norm_weight}, {normed}, {}", c_float(self.eps))),
            (*centered, centered.to_string()),
            (self.formula, if self.formula { "Formula" } else { "smelt::Same" }.to_owned()),
            (self.quantized.is_some() || bias != product, (*bias).to_owned()),
            (self.quantized.is_some(), self.quantized.clone().unwrap_or_default()),
        ];
        let last = list.iter().rposition(|(differs, _)| *differs).map_or(0, |last| last + 1);
        list.into_iter().take(last).map(|(_, argument)| format!(", {argument}")).collect()
    }
}

/// The operands after x and the weight, some of which may be absent.
pub(super) fn operands(shape: &Shape) -> [Option<Value>; 8] {
    let factors = shape.parts.prologue.as_ref().map_or(&[][..], |(_, operands)| operands);
    let [x_scale, weight_scale, zero_point] = shape.scales();
    let [norm_weight, norm_bias] = [0, 1].map(|index| factors.get(index).copied());
    [norm_weight, norm_bias, x_scale, weight_scale, zero_point, shape.bias(), shape.residual(), shape.output_scale()]
}
