//! Sliding windows. Sequences within the window are not affected by it, so it bounds their length here.

use serde_json::Value;

use crate::json::Object;
use crate::report::{Report, listed};

/// Keys that say which layers have a window, and its size.
pub(crate) const KEYS: [&str; 4] = [SIZE, SWITCH, "max_window_layers", TYPES];

const SIZE: &str = "sliding_window";
const SWITCH: &str = "use_sliding_window";
const TYPES: &str = "layer_types";
const SLIDING: &str = "sliding_attention";

/// Which layers have a sliding window.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Window {
    /// All.
    Everywhere,
    /// None unless `use_sliding_window` is true, and then those from `max_window_layers` on; this is its default.
    Switched { layers_before: u32 },
}

/// The smallest sliding window of any layer; `None` if every layer sees a whole sequence of `positions`.
pub(crate) fn read(
    config: Object<'_>,
    (which, default_size): (Window, Option<u32>),
    (layers, positions): (u32, u32),
    report: &mut Report,
) -> Option<u32> {
    let problems = report.problems();
    let sliding_layers = read_layer_types(config, report);
    let on = config.present(SWITCH).and_then(|_| config.flag(SWITCH, report)).unwrap_or(false);
    let applies = match which {
        // whatever `layer_types` says
        Window::Everywhere => true,
        Window::Switched { layers_before } => {
            on && sliding_layers.unwrap_or_else(|| {
                let before = config.size("max_window_layers", 0..=u32::MAX, report);
                before.unwrap_or(layers_before) < layers
            })
        }
    };
    let window = match config.get(SIZE) {
        _ if !applies => None,
        Some(Value::Null) => None,
        Some(_) => config.size(SIZE, 1..=1 << 30, report),
        None => default_size,
    };
    let switched = matches!(which, Window::Switched { .. });
    if window.is_none() && report.problems() == problems {
        let mut refuse = |key: &str, expected: String| {
            let value = config.get(key).unwrap_or(&Value::Null);
            report.unsupported(config.found(
                key,
                value,
                format_args!("which changes the mathematics: expected {expected}"),
            ));
        };
        if sliding_layers == Some(true) {
            let switch = if switched { format!(" and `{SWITCH}` true") } else { String::new() };
            refuse(TYPES, format!("full_attention, or a window in `{SIZE}`{switch}"));
        } else if on && !switched {
            refuse(SWITCH, format!("false, or a window in `{SIZE}`"));
        }
    }
    window.filter(|window| *window < positions)
}

/// Whether some layers have a window, if the file has a type per layer.
fn read_layer_types(config: Object<'_>, report: &mut Report) -> Option<bool> {
    let value = config.present(TYPES)?;
    let types: Option<Vec<&str>> = value.as_array().and_then(|types| types.iter().map(Value::as_str).collect());
    let known = ["full_attention", SLIDING];
    match types {
        Some(types) if types.iter().all(|kind| known.contains(kind)) => {
            (!types.is_empty()).then(|| types.contains(&SLIDING))
        }
        _ => {
            let rest = format_args!("which changes the mathematics: expected a list of {}", listed(&known));
            report.unsupported(config.found(TYPES, value, rest));
            None
        }
    }
}
