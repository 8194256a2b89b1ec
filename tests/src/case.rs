//! A case: the text of a graph under a header of comments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ir::text::Parsed;
use ir::{Graph, OpSet};

use crate::Edit;

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
    /// `// fires-with: s/OLD/NEW/`: what makes the passes fire, where they change nothing.
    pub fires_with: Option<FiresWith>,
    /// `// near-miss: NAME: s/OLD/NEW/`: what keeps the passes from firing, where they change something.
    pub near_misses: Vec<(String, Edit)>,
    /// The whole text, comments included.
    pub text: String,
}

/// Proof that passes change nothing for the reason that the case shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FiresWith {
    /// They fire on the graph with this edit.
    Edit(Edit),
    /// `nothing, REASON`: they never change a graph.
    Nothing,
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
        let headers = |key| text.lines().filter_map(move |line| line.strip_prefix("// ")?.strip_prefix(key));
        let wrong = |error: String| format!("{name}: {error}");
        let sizes = sizes(headers("sizes: ").next().unwrap_or_default()).map_err(wrong)?;
        let dummy_weights = headers("weights: ").next() == Some("dummy");
        let fires_with = headers("fires-with: ").next().map(fires_with).transpose().map_err(wrong)?;
        let near_misses = headers("near-miss: ").map(near_miss).collect::<Result<_, _>>().map_err(wrong)?;
        let (path, args) = (path.to_owned(), words.collect());
        Ok(Case { name, path, command, args, sizes, dummy_weights, fires_with, near_misses, text })
    }

    /// The graph with an edit, without comments.
    pub fn edited(&self, edit: &Edit) -> Result<Case, String> {
        Ok(Case { text: edit.apply(&self.body())?, ..self.clone() })
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

/// `s/OLD/NEW/` or `nothing, REASON`
fn fires_with(text: &str) -> Result<FiresWith, String> {
    if text.starts_with("nothing, ") { Ok(FiresWith::Nothing) } else { text.parse().map(FiresWith::Edit) }
}

/// `NAME: s/OLD/NEW/`
fn near_miss(text: &str) -> Result<(String, Edit), String> {
    let (name, edit) = text.split_once(": ").ok_or_else(|| format!("expected `NAME: s/OLD/NEW/`, found `{text}`"))?;
    Ok((name.to_owned(), edit.parse()?))
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
