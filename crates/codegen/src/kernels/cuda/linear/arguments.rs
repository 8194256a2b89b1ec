//! Shared by the kernels for few rows: template arguments after their configuration, and operands.

use ir::Value;
use ir::ops::{Norm, Prologue};

use super::Shape;
use super::codes::Codes;
use crate::kernels::cuda::body::{c_float, c_type};
use crate::kernels::cuda::norm;
use crate::{Refusal, Site};

/// The template arguments after the configuration, where they are not the default.
pub(super) struct Arguments {
    product: &'static str,
    gated: bool,
    x: &'static str,
    gain: &'static str,
    /// Rows that are normed.
    normed: u64,
    eps: f32,
    centred: bool,
    formula: bool,
    /// Those of codes.
    codes: Option<String>,
    bias: &'static str,
}

impl Arguments {
    /// Of a linear that norms so many rows, if it norms any.
    pub fn of(site: &Site<'_>, shape: &Shape, codes: &Codes, rows: u64) -> Result<Arguments, Refusal> {
        let product = shape.product_type(site);
        let mut arguments = Arguments {
            product,
            gated: shape.gated(),
            x: if codes.x.is_some() { c_type(codes.x_dtype) } else { product },
            gain: product,
            normed: 0,
            eps: 0.0,
            centred: false,
            formula: shape.formula().is_some(),
            codes: codes.coded.then(|| codes.arguments(shape.k)),
            bias: product,
        };
        if let Some(bias) = shape.bias() {
            arguments.bias = c_type(site.tensor(bias)?.dtype);
        }
        if let Some((Prologue { norm, eps, .. }, operands)) = &shape.parts.before {
            let (x, gain) = (c_type(site.tensor(shape.parts.x)?.dtype), c_type(norm::gain(site, operands)?));
            arguments = Arguments { x, gain, normed: rows, eps: *eps, centred: *norm == Norm::Layer, ..arguments };
        }
        Ok(arguments)
    }

    /// As many as are needed.
    pub fn text(&self) -> String {
        let Arguments { product, gated, x, gain, normed, centred, bias, .. } = self;
        let list = [
            (*gated, gated.to_string()),
            (*normed > 0, format!("{x}, {gain}, {normed}, {}", c_float(self.eps))),
            (*centred, centred.to_string()),
            (self.formula, if self.formula { "Formula" } else { "smelt::Same" }.to_owned()),
            (self.codes.is_some() || bias != product, (*bias).to_owned()),
            (self.codes.is_some(), self.codes.clone().unwrap_or_default()),
        ];
        let last = list.iter().rposition(|(told, _)| *told).map_or(0, |last| last + 1);
        list.into_iter().take(last).map(|(_, argument)| format!(", {argument}")).collect()
    }
}

/// The operands after x and the weight, some of which may be absent.
pub(super) fn operands(shape: &Shape) -> [Option<Value>; 8] {
    let factors = shape.parts.before.as_ref().map_or(&[][..], |(_, operands)| operands);
    let [x_scale, weight_scale, zero] = shape.scales();
    let [gain, shift] = [0, 1].map(|index| factors.get(index).copied());
    [gain, shift, x_scale, weight_scale, zero, shape.bias(), shape.residual(), shape.codes_scale()]
}
