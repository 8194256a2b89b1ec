//! Edits of a case's graph: `s/OLD/NEW/`, several of them separated by spaces. Every OLD is replaced; `\n` is a line end.

use std::str::FromStr;

/// Replacements, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit(Vec<(String, String)>);

impl FromStr for Edit {
    type Err = String;

    fn from_str(text: &str) -> Result<Edit, String> {
        let mut replacements = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let parts: Vec<&str> = rest.strip_prefix("s/").unwrap_or_default().splitn(3, '/').collect();
            let [old, new, after] = parts[..] else { return Err(format!("expected `s/OLD/NEW/`, found `{rest}`")) };
            if old.is_empty() {
                return Err(format!("expected something to replace, found `{rest}`"));
            }
            replacements.push((old.replace("\\n", "\n"), new.replace("\\n", "\n")));
            rest = after.trim_start();
        }
        match replacements.is_empty() {
            true => Err("expected `s/OLD/NEW/`, found nothing".to_owned()),
            false => Ok(Edit(replacements)),
        }
    }
}

impl Edit {
    /// The text with every replacement; each must find something.
    pub fn apply(&self, text: &str) -> Result<String, String> {
        self.0.iter().try_fold(text.to_owned(), |text, (old, new)| match text.contains(old) {
            true => Ok(text.replace(old, new)),
            false => Err(format!("`{old}` does not occur in the graph")),
        })
    }
}
