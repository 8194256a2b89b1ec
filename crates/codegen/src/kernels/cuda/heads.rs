//! What RoPE and attention know about heads: their norm, and the frequencies. Mirrors `kernels/norm/heads.cuh`.

use plan::DType;

use super::body::{c_float, c_type};
use crate::{Refusal, Site};

/// The norm of heads before RoPE, as a template argument of bodies with the norm weights after the frequencies.
pub(super) struct HeadNorm {
    /// The template argument.
    pub ty: String,
    /// The input indices of the norm weights, if there are none.
    pub absent: Vec<usize>,
}

impl HeadNorm {
    /// The norm of an op whose sixth operand is the norm weight of the queries, if it has one.
    pub fn of(site: &Site<'_>, eps: Option<f32>) -> Result<HeadNorm, Refusal> {
        Ok(match eps {
            Some(eps) => {
                let weight = c_type(site.operand_type(5)?.dtype);
                HeadNorm { ty: format!("smelt::HeadNorm<{weight}, {}>", c_float(eps)), absent: Vec::new() }
            }
            None => HeadNorm { ty: "smelt::NoNorm".to_owned(), absent: vec![5, 6] },
        })
    }
}

/// The number of frequencies, which are f32.
pub(super) fn frequencies(site: &Site<'_>, operand: usize) -> Result<u64, Refusal> {
    let ty = site.operand_type(operand)?;
    ty.width().filter(|_| ty.dtype == DType::F32).ok_or_else(|| Refusal::because("its frequencies are not f32"))
}
