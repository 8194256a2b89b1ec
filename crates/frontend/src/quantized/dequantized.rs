//! Weights whose columns are assigned to groups by activation order (`desc_act`), not by position. No product takes
//! such quantized weights: they are dequantized, and rounded once, to the graph's weight dtype.

use std::ops::Range;

use plan::DType;

use super::{Activations, Quantized, View};
use crate::report::{Report, listed};
use crate::tensors::{Tensors, check_range};
use ir::TensorType;

/// A tensor of the checkpoint and its view.
type Seen = (String, View);

/// A weight that is dequantized.
#[derive(Debug)]
pub(crate) struct Dequantized {
    codes: Seen,
    scale: Seen,
    zero: Option<Seen>,
    /// The group of each column.
    group_of: Vec<usize>,
}

impl Dequantized {
    /// Copies elements of the weight of this name, in f32.
    pub fn read(&self, name: &str, tensors: &Tensors, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let [rows, cols] = self.codes.1.shape;
        check_range(name, &elements, rows * cols, DType::F32.bytes(), out.len())?;
        if elements.is_empty() {
            return Ok(());
        }
        let read = |(name, view): &Seen, elements: Range<u64>| {
            let mut bytes = vec![0; ((elements.end - elements.start) * view.dtype.bytes()) as usize];
            view.read(name, tensors, elements, &mut bytes).map(|()| view.dtype.decode(&bytes))
        };
        let groups = self.scale.1.shape[1];
        let first = elements.start / cols;
        let of_rows = first * groups..elements.end.div_ceil(cols) * groups;
        let scales = read(&self.scale, of_rows.clone())?;
        let zeros = self.zero.as_ref().map(|zero| read(zero, of_rows)).transpose()?;
        let codes = read(&self.codes, elements.clone())?;
        let number = |(element, code): (u64, f32)| {
            let at = (element / cols - first) * groups;
            let at = at as usize + self.group_of[(element % cols) as usize];
            (code - zeros.as_ref().map_or(0.0, |zeros| zeros[at])) * scales[at]
        };
        DType::F32.encode(elements.zip(codes).map(number), out);
        Ok(())
    }
}

impl Quantized {
    /// Reads the group of each column, if tensors say that. Linear layers whose groups are not contiguous become
    /// unquantized ones.
    pub(super) fn judge_groups(&mut self, tensors: &Tensors, report: &mut Report) {
        let path = tensors.path().display();
        let mut widened = Vec::new();
        for (module, (name, group)) in &self.groups {
            let found = tensors.integers(name);
            let by_place = |(column, found): (u64, &i64)| (column / group) as i64 == *found;
            // llm-compressor writes -1 without activation order
            if (0..).zip(&found).all(by_place) || found.iter().all(|found| *found == -1) {
                continue;
            }
            let Some(linear) = self.linears.get(module) else { continue };
            if linear.x != Activations::Numbers {
                let rest = "expected contiguous groups with quantized activations";
                report.unsupported(format!("{path}: `{name}` assigns columns to groups by activation order, {rest}"));
                continue;
            }
            let seen = |name: &String| self.views.get(name).map(|view| (name.clone(), view.clone()));
            let (Some(codes), Some(scale)) = (seen(&linear.codes), seen(&linear.scale)) else { continue };
            let groups = scale.1.shape[1];
            let in_range = |found: i64| usize::try_from(found).ok().filter(|found| (*found as u64) < groups);
            let Some(group_of) = found.iter().map(|found| in_range(*found)).collect::<Option<Vec<usize>>>() else {
                report.bad_input(format!("{path}: `{name}` names groups outside of the {groups} that have scales"));
                continue;
            };
            let weight = Dequantized { codes, scale, zero: linear.zero.as_ref().and_then(seen), group_of };
            widened.push((module.clone(), weight));
        }
        if !widened.is_empty() {
            let names: Vec<&str> = widened.iter().map(|(module, _)| module.as_str()).collect();
            report.warning(format!(
                "{path}: `g_idx` assigns columns of {} linear layers to groups by activation order (`desc_act`): they are dequantized \
                 to the model's dtype and take as much memory as unquantized ones: {}",
                names.len(),
                listed(&names)
            ));
        }
        for (module, weight) in widened {
            self.linears.remove(&module);
            let name = format!("{module}.weight");
            self.types.insert(name.clone(), TensorType::new(DType::F32, weight.codes.1.shape));
            self.dequantized.insert(name, weight);
        }
    }
}
