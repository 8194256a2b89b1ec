//! Which modules a group of compressed-tensors means: names, `re:` patterns, and the class of all linears.

use regex::Regex;

use crate::json::Object;
use crate::report::Report;

/// What a list of targets names.
#[derive(Debug, Default)]
pub(super) struct Targets {
    names: Vec<String>,
    patterns: Vec<Regex>,
    /// Whether the class of all linears is among them.
    linears: bool,
}

impl Targets {
    /// The list under a key; a missing one names nothing.
    pub fn read(config: Object<'_>, key: &str, report: &mut Report) -> Targets {
        let mut targets = Targets::default();
        let Some(value) = config.present(key) else { return targets };
        let strings = |value: &serde_json::Value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        };
        for target in config.expect(key, "a list of names of modules", strings, report).unwrap_or_default() {
            match target.strip_prefix("re:") {
                // they match from the start of a name, and need not reach its end
                Some(pattern) => match Regex::new(&format!("^(?:{pattern})")) {
                    Ok(pattern) => targets.patterns.push(pattern),
                    Err(_) => {
                        let rest = "with a pattern that is not read: expected one without looking around";
                        report.unsupported(config.found(key, value, rest));
                    }
                },
                None if target == "Linear" => targets.linears = true,
                None => targets.names.push(target),
            }
        }
        targets
    }

    /// Whether a module is named, by itself or by a pattern.
    pub fn name(&self, module: &str) -> bool {
        self.names.iter().any(|name| name == module) || self.patterns.iter().any(|pattern| pattern.is_match(module))
    }

    /// Whether all linears are meant.
    pub fn linears(&self) -> bool {
        self.linears
    }
}
