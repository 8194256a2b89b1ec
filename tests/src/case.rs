//! A case: the text of a graph under a header of comments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ir::text::Parsed;
use ir::{Graph, OpSet};

/// One `.ir` file.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its path, relative to the directory of cases and without `.ir`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The first word after `// test:`.
    pub command: String,
    /// The words after it.
    pub args: Vec<String>,
    /// `// sizes: T = 9, B = 2`: the sizes of a step.
    pub sizes: BTreeMap<String, u64>,
    /// `// weights: dummy`: constants are random runs that the plan describes.
    pub dummy_weights: bool,
    /// The whole text, comments included.
    pub text: String,
}

/// An `// error: …` comment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedError {
    /// Its line, from 1.
    pub line: usize,
    /// The message.
    pub message: String,
}

impl Case {
    /// Reads a file below the folder `root`.
    pub fn load(root: &Path, path: &Path) -> Result<Case, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(path).with_extension("");
        let name = name.to_string_lossy().into_owned();
        let first = text.lines().next().and_then(|line| line.strip_prefix("// test: "));
        let first = first.ok_or_else(|| format!("{name}: expected `// test: COMMAND` on the first line"))?;
        let mut words = first.split_whitespace().map(str::to_owned);
        let command = words.next().ok_or_else(|| format!("{name}: expected a command after `// test:`"))?;
        let header = |key: &str| text.lines().find_map(|line| line.strip_prefix("// ")?.strip_prefix(key));
        let sizes = sizes(header("sizes: ").unwrap_or_default()).map_err(|error| format!("{name}: {error}"))?;
        let dummy_weights = header("weights: ") == Some("dummy");
        Ok(Case { name, path: path.to_owned(), command, args: words.collect(), sizes, dummy_weights, text })
    }

    /// The same case with another KV block size.
    pub fn with_block_tokens(&self, tokens: u32) -> Case {
        let mut text = String::new();
        let mut rest = self.text.as_str();
        const KEY: &str = "block_tokens = ";
        while let Some(at) = rest.find(KEY) {
            let (head, tail) = rest.split_at(at + KEY.len());
            text.push_str(head);
            text.push_str(&tokens.to_string());
            rest = tail.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        text.push_str(rest);
        Case { text, ..self.clone() }
    }

    /// The same case with other values for its inputs and constants, which are random by name.
    pub fn reseeded(&self, seed: &str) -> Case {
        let text = self.text.replace("constant @\"", &format!("constant @\"{seed}."));
        Case { name: format!("{}, seed {seed}", self.name), text, ..self.clone() }
    }

    /// The parsed text with positions; it may use these ops.
    pub fn parsed(&self, ops: &OpSet) -> Result<Parsed, String> {
        ir::text::parse(&self.text, ops).map_err(|error| error.to_string())
    }

    /// The graph of a text with smelt's ops, legal as imported.
    pub fn graph(&self) -> Result<Graph, String> {
        self.graph_of(&OpSet::standard())
    }

    /// The graph of a text with these ops, legal as imported.
    pub fn graph_of(&self, ops: &OpSet) -> Result<Graph, String> {
        let graph = self.parsed(ops)?.graph;
        match ir::verify(&graph, ir::Stage::Imported) {
            Ok(_) => Ok(graph),
            Err(found) => Err(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    /// The text without comments and empty lines.
    pub fn body(&self) -> String {
        let code = self.text.lines().map(|line| line.find("// ").map_or(line, |at| line[..at].trim_end()));
        code.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
    }

    /// The errors of comments at the ends of lines.
    pub fn expected_errors(&self) -> Vec<ExpectedError> {
        let lines = (1..).zip(self.text.lines());
        let errors = lines.flat_map(|(line, text)| {
            text.split("// error: ").skip(1).map(move |message| (line, message.trim_end().to_owned()))
        });
        errors.map(|(line, message)| ExpectedError { line, message }).collect()
    }
}

/// `T = 9, B = 2`
fn sizes(text: &str) -> Result<BTreeMap<String, u64>, String> {
    let entry = |entry: &str| {
        let (name, value) = entry.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().parse().ok()?))
    };
    let entries = text.split(',').filter(|part| !part.trim().is_empty());
    entries.map(|part| entry(part).ok_or_else(|| format!("expected `T = 9`, found `{part}`"))).collect()
}
