//! The number of columns that share a scale and a zero point, in formats that call it `group_size`.

use serde_json::Value;

use super::LinearShape;
use crate::json::Object;
use crate::report::Report;

/// The default of transformers.
const DEFAULT: u64 = 128;

/// Columns of a group.
pub(super) struct GroupSize {
    /// `None` for a whole row, which is spelled -1.
    cols: Option<u64>,
    /// Hint for the case that the tensors disagree, if the size is only a default.
    missing: Option<String>,
}

/// The groups of a linear layer.
pub(super) struct Groups {
    pub count: u64,
    pub cols: u64,
}

impl GroupSize {
    /// The size under the first of these keys that exists.
    pub fn read(config: Object<'_>, keys: &[&str], report: &mut Report) -> GroupSize {
        let Some(key) = keys.iter().find(|key| config.present(key).is_some()) else {
            let expected =
                format_args!("expected the columns of a group, or -1 for all (transformers takes {DEFAULT})");
            return GroupSize { cols: Some(DEFAULT), missing: Some(config.missing(keys[0], expected)) };
        };
        let convert = |value: &Value| value.as_i64().filter(|size| *size == -1 || *size > 0);
        let size = config.expect(key, "a number above 0, or -1", convert, report);
        GroupSize { cols: size.and_then(|size| u64::try_from(size).ok()), missing: None }
    }

    /// The groups of a linear layer, whose scales are stored as `[groups, rows]`. Impossible sizes are reported.
    pub fn of(&self, linear: LinearShape<'_>, report: &mut Report) -> Option<Groups> {
        let cols = self.cols.unwrap_or(linear.cols).min(linear.cols);
        let stored = linear.tensors.shape(&linear.name("scales")).and_then(|shape| shape.first());
        if let Some(missing) =
            self.missing.as_ref().filter(|_| stored.is_some_and(|n| *n != linear.cols.div_ceil(cols)))
        {
            report.bad_input(missing.clone());
            return None;
        }
        let count = linear.groups("`group_size`", cols, report)?;
        Some(Groups { count, cols })
    }
}
