//! `smelt inspect --precision`: the format of each linear layer, and the reason.

use std::collections::BTreeMap;

use serde::Serialize;
use smelt::{PRECISION_FILE, Plan};

/// The formats of a plan's linear layers.
#[derive(Serialize)]
pub struct Precision {
    schema_version: u32,
    /// What is said of the whole.
    notes: Vec<String>,
    linears: Vec<Row>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Row {
    name: String,
    format: String,
    reason: Option<String>,
}

impl Precision {
    /// The formats that the plan was compiled with; `None` if no linear layer is quantized.
    pub fn of(plan: &Plan) -> Option<Precision> {
        let file = plan.files.iter().find(|file| file.name == PRECISION_FILE)?;
        let text = String::from_utf8_lossy(&file.bytes).into_owned();
        let (mut notes, mut linears) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let (fields, comment) = line.split_once('#').unwrap_or((line, ""));
            let comment = Some(comment.trim().to_owned()).filter(|comment| !comment.is_empty());
            match fields.split_whitespace().collect::<Vec<_>>()[..] {
                [name, format] => {
                    linears.push(Row { name: name.to_owned(), format: format.to_owned(), reason: comment });
                }
                _ => notes.extend(comment),
            }
        }
        Some(Precision { schema_version: 1, notes, linears, text })
    }

    /// The table that `compile --precision-map` reads.
    pub fn table(&self) -> &str {
        &self.text
    }

    /// The number of linear layers by format.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.linears.iter().for_each(|row| *counts.entry(&row.format).or_default() += 1);
        let counts: Vec<String> = counts.iter().map(|(format, count)| format!("{count} {format}")).collect();
        format!("{} (linear layers; --precision lists them with reasons)", counts.join(", "))
    }
}
