//! `smelt opt`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use smelt::extend::ir::text;
use smelt::plans::input::{self, TEXT_BYTES};
use smelt::{Driver, Error, PassTime};

use super::list::List;
use crate::args::{PassArgs, pass_names};
use crate::emit::{EmitArgs, Texts};
use crate::failure::Failure;
use crate::output::{print, print_json, reads};
use crate::repro::with_repro;

/// Runs passes on a textual graph and prints the result, after any --emit output.
#[derive(Debug, Args)]
pub struct Opt {
    /// Passes in order, comma-separated [default: the standard pipeline].
    #[arg(long, value_name = "PASSES", value_delimiter = ',', hide_possible_values = true, value_parser = pass_names())]
    pass: Vec<String>,
    /// Graph file; `-` is stdin.
    #[arg(value_name = "FILE.ir", required_unless_present = "list")]
    file: Option<PathBuf>,
    #[command(flatten)]
    list: List,
    #[command(flatten)]
    emit: EmitArgs,
    #[command(flatten)]
    passes: PassArgs,
    /// Prints the graph and what each pass did as JSON.
    #[arg(long, conflicts_with = "emit")]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    graph: String,
    passes: Vec<PassTime>,
}

impl Opt {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let driver = &self.passes.driver(driver)?;
        if self.list.wanted() {
            return self.list.run(driver, self.json);
        }
        if self.emit.beyond_passes() {
            let known = "ir, ir-after-all, ir-after-change, ir-after=PASS or passes";
            return Err(Failure::usage(format!("`smelt opt` does not choose kernels: expected --emit {known}")));
        }
        self.emit.check(driver)?;
        let path = self.file.unwrap_or_default();
        reads(&path);
        self.emit.prepare_folder(&[])?;
        let input = match path.as_os_str() == "-" {
            true => input::bounded(std::io::stdin().lock(), TEXT_BYTES).and_then(input::text),
            false => input::read_text_or_pipe(&path, TEXT_BYTES),
        };
        let input = input.map_err(|error| Error::Io { path: path.clone(), error })?;
        let mut texts = Texts::new(&self.emit);
        let done = driver.optimize(&input, &self.pass, &self.passes.options(), &mut texts);
        let (graph, passes) = done.map_err(|error| match error {
            Error::BadInput(message) => Failure::bad_input(format!("{}: {message}", path.display())),
            Error::Unsupported(message) => Error::Unsupported(format!("{}: {message}", path.display())).into(),
            error => with_repro(error, self.emit.folder()),
        })?;
        let graph = text::print(&graph);
        texts.end(&graph);
        texts.write()?;
        if self.json { print_json(&Report { schema_version: 1, graph, passes }) } else { print(&graph) }
    }
}
