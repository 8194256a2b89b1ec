//! Zero points: those at the middle of the range are dropped, and those that contradict the configuration are reported.

use std::collections::BTreeSet;

use safetensors::tensor::Dtype;

use super::{Form, Packed, Quantized, View};
use crate::report::{Report, listed};
use crate::tensors::Tensors;

/// Zero points that must be at the middle of the range, since the configuration calls them symmetric.
#[derive(Clone, Debug)]
pub(crate) struct Symmetric {
    /// Whether the configuration says so explicitly; otherwise it is the default.
    pub stated: bool,
    /// The format in the configuration, which defines how they are stored.
    pub format: &'static str,
    /// As another version of the format stores them.
    pub other: Packed,
}

impl Quantized {
    /// Drops zero points at the middle of the range. If `sym` says that all are, some programs store them as another
    /// version of the format than the one that they name.
    pub(super) fn judge_zeros(&mut self, tensors: &Tensors, report: &mut Report) {
        let path = tensors.path().display();
        let (mut otherwise, mut contradicting) = (Vec::new(), Vec::new());
        let mut format = None;
        for linear in self.linears.values_mut() {
            let Some((zero, view)) = linear.zero.as_ref().and_then(|zero| self.views.get_key_value(zero)) else {
                continue;
            };
            if view.is_zero(zero, tensors) {
                // values around the middle of the range are signed, without zero points
                linear.zero = None;
                continue;
            }
            let Some(symmetric) = self.symmetric.get(zero) else { continue };
            format = Some(symmetric);
            if (View { form: Form::Packed(symmetric.other), ..view.clone() }).is_zero(zero, tensors) {
                otherwise.push(zero.as_str());
                linear.zero = None;
            } else if symmetric.stated {
                contradicting.push(zero.as_str());
            }
        }
        let Some(Symmetric { format, other, .. }) = format else { return };
        let middle = 1 << (other.bits - 1);
        if !otherwise.is_empty() {
            let (offset, names) = (if other.add == 0 { "without" } else { "with" }, listed(&otherwise));
            report.warning(format!(
                "{path}: zero points are stored {offset} an offset of one, unlike `checkpoint_format` {format}; \
                     \
                 `sym` is true, so they are read as the middle of the range, {middle}: {names}"
            ));
        }
        if !contradicting.is_empty() {
            report.bad_input(format!(
                "{path}: zero points contradict `sym`, which is true, and `checkpoint_format` {format}: expected {middle} \
                     for all, or `sym` false, found other values in {}",
                listed(&contradicting)
            ));
        }
    }

    /// Drops zero points that nothing reads, since the format is symmetric. They must be 0.
    pub(super) fn drop_zero_points(&self, tensors: &mut Tensors, report: &mut Report) {
        let expected: BTreeSet<&str> = self.stored.iter().map(|tensor| tensor.name.as_str()).collect();
        let surplus = tensors.names().filter(|name| name.ends_with("_zero_point") && !expected.contains(name));
        let surplus: Vec<String> = surplus.map(str::to_owned).collect();
        let (zeros, others): (Vec<&str>, Vec<&str>) =
            surplus.iter().map(String::as_str).partition(|name| self.is_neutral(name, tensors));
        let path = tensors.path().display().to_string();
        if !others.is_empty() {
            report.bad_input(format!(
                "{path}: config.json declares a symmetric format, but some zero points are not 0: {}",
                listed(&others)
            ));
        }
        if !zeros.is_empty() {
            let count = zeros.len();
            report.warning(format!("{path}: zero points of a symmetric format ({count}) are ignored: all are 0"));
        }
        // also those with an error, which is already reported
        tensors.forget(|name| surplus.iter().any(|surplus| surplus == name));
    }

    /// Whether a tensor of zero points is all 0, as integers or as the middle of packed values.
    fn is_neutral(&self, name: &str, tensors: &Tensors) -> bool {
        let packed = || {
            let linear = self.linears.get(name.rsplit_once('.')?.0)?;
            let codes = self.views.get(&linear.codes)?;
            let Form::Packed(packed) = codes.form else { return None };
            let (packed, rows) = (Packed { axis: 0, ..packed }, codes.shape[0]);
            let [words, groups] = tensors.shape(name)?[..] else { return None };
            let fits = words == rows.div_ceil(packed.per_word()) && tensors.stored_dtype(name) == Some(Dtype::I32);
            let view = View { shape: [rows, groups], form: Form::Packed(packed), ..codes.clone() };
            Some(fits && view.is_zero(name, tensors))
        };
        tensors.bytes(name).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0)) || packed() == Some(true)
    }
}
