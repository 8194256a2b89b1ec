//! Zero points: those that are the middle of their range are left out, and those that contradict what the configuration
//! says of them are found.

use std::collections::BTreeSet;

use safetensors::tensor::Dtype;

use super::{Form, Packed, Quantized, View};
use crate::report::{Report, listed};
use crate::tensors::Tensors;

/// Zero points that must be the middle of their range, for the configuration calls them symmetric.
#[derive(Clone, Debug)]
pub(crate) struct Symmetric {
    /// Whether the configuration says so itself; otherwise that is what a missing key means.
    pub stated: bool,
    /// The format that the configuration names, by which they are stored.
    pub format: &'static str,
    /// As another version of the format stores them.
    pub other: Packed,
}

impl Quantized {
    /// Leaves out zero points that are the middle of their range. Where `sym` says that all are, some programs store them
    /// as another version of the format than the one that they name.
    pub(super) fn judge_zeros(&mut self, tensors: &Tensors, report: &mut Report) {
        let path = tensors.path().display();
        let (mut otherwise, mut contradicting) = (Vec::new(), Vec::new());
        let mut format = None;
        for linear in self.linears.values_mut() {
            let Some((zero, view)) = linear.zero.as_ref().and_then(|zero| self.views.get_key_value(zero)) else {
                continue;
            };
            if view.is_zero(zero, tensors) {
                // codes around the middle of their range are signed ones, without zeros
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
                "{path}: zero points are stored {offset} an offset of one, which `checkpoint_format` {format} does not mean; \
                 `sym` is true, so they are read as the middle of the range, {middle}: {names}"
            ));
        }
        if !contradicting.is_empty() {
            report.bad_input(format!(
                "{path}: zero points contradict `sym`, which is true, and `checkpoint_format` {format}: expected {middle} \
                 for all, or `sym` false, found others in {}",
                listed(&contradicting)
            ));
        }
    }

    /// Leaves out zero points that nothing reads, for their codes are symmetric. They must be zeros.
    pub(super) fn drop_zero_points(&self, tensors: &mut Tensors, report: &mut Report) {
        let expected: BTreeSet<&str> = self.stored.iter().map(|tensor| tensor.name.as_str()).collect();
        let surplus = tensors.names().filter(|name| name.ends_with("_zero_point") && !expected.contains(name));
        let surplus: Vec<String> = surplus.map(str::to_owned).collect();
        let (zeros, others): (Vec<&str>, Vec<&str>) =
            surplus.iter().map(String::as_str).partition(|name| self.is_neutral(name, tensors));
        let path = tensors.path().display().to_string();
        if !others.is_empty() {
            report.bad_input(format!(
                "{path}: config.json calls codes symmetric, which have zero points other than 0: {}",
                listed(&others)
            ));
        }
        if !zeros.is_empty() {
            let count = zeros.len();
            report.warning(format!("{path}: zero points of symmetric codes ({count}) are ignored: all are 0"));
        }
        // those with an error, too: it says enough of them
        tensors.forget(|name| surplus.iter().any(|surplus| surplus == name));
    }

    /// Whether a tensor of zero points holds nothing but 0, as numbers or as the middle of packed codes.
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
