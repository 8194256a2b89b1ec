//! The modules of a compressed-tensors group: names, `re:` patterns, and the class of all linear layers.

use fancy_regex::{Regex, RegexBuilder};

use crate::json::Object;
use crate::report::Report;

/// Maximum number of backtracking steps of a match: names are short, and a pattern that needs more is hostile.
const MOST_STEPS: usize = 100_000;

/// The modules that a list of targets names.
#[derive(Debug, Default)]
pub(super) struct Targets {
    names: Vec<String>,
    patterns: Vec<Pattern>,
    /// Whether the class of all linear layers is among them.
    linears: bool,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    /// Where it is in the file, and the list.
    said: String,
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
        for target in config.expect(key, "a list of module names", strings, report).unwrap_or_default() {
            match target.strip_prefix("re:") {
                // they match at the start of a name, and need not reach its end
                Some(pattern) => {
                    let regex = RegexBuilder::new(&format!("^(?:{pattern})")).backtrack_limit(MOST_STEPS).build();
                    match regex {
                        Ok(regex) => targets.patterns.push(Pattern { regex, said: config.said(key, value) }),
                        Err(_) => {
                            let rest =
                                format_args!("whose pattern `{}` is not a regular expression", pattern.escape_debug());
                            report.bad_input(config.found(key, value, rest));
                        }
                    }
                }
                None if target == "Linear" => targets.linears = true,
                None => targets.names.push(target),
            }
        }
        targets
    }

    /// Whether a module is named, by itself or by a pattern. A pattern that takes too long is reported.
    pub fn name(&self, module: &str, report: &mut Report) -> bool {
        let mut matches = |pattern: &Pattern| {
            pattern.regex.is_match(module).unwrap_or_else(|_| {
                let found = pattern.regex.as_str().escape_debug();
                report.unsupported(format!("{}, whose pattern `{found}` takes too many steps to match", pattern.said));
                false
            })
        };
        self.names.iter().any(|name| name == module) || self.patterns.iter().any(&mut matches)
    }

    /// Whether all linears are meant.
    pub fn linears(&self) -> bool {
        self.linears
    }
}
