//! `smelt opt`

use std::path::PathBuf;

use clap::Args;
use smelt::{Driver, Dumps, Error};

use super::compile::{EmitArgs, with_repro, write_texts};
use crate::args::PassArgs;
use crate::failure::Failure;
use crate::output::print;

/// Runs passes on the text of a graph and prints what comes out, behind the texts of --emit.
#[derive(Debug, Args)]
pub struct Opt {
    /// Passes in order, with commas; without any, the standard pipeline.
    #[arg(long, value_name = "PASSES", value_delimiter = ',')]
    pass: Vec<String>,
    /// The graph's text; `-` is stdin.
    #[arg(value_name = "FILE.ir", required_unless_present_any = ["list_passes", "list_ops"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    emit: EmitArgs,
    #[command(flatten)]
    passes: PassArgs,
    /// Lists the passes.
    #[arg(long)]
    list_passes: bool,
    /// Lists the ops.
    #[arg(long)]
    list_ops: bool,
}

impl Opt {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        let driver = &self.passes.driver(driver)?;
        if self.list_passes {
            return list_passes(driver);
        }
        if self.list_ops {
            return list_ops(driver);
        }
        if self.emit.beyond_passes() {
            let known = "ir, ir-after-all, ir-after-change, ir-after=PASS or passes";
            return Err(Failure::usage(format!("`smelt opt` chooses no kernels: expected --emit {known}")));
        }
        let path = self.file.unwrap_or_default();
        let text = match path.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(&path),
        };
        let text = text.map_err(|error| Error::Io { path: path.clone(), error })?;
        let mut dumps = Dumps { wanted_passes: self.emit.wanted_passes(), ..Dumps::default() };
        let passes = driver.optimize(&text, &self.pass, &self.passes.options(), &mut dumps);
        let passes = passes.map_err(|error| match error {
            Error::BadInput(message) => Failure::bad_input(format!("{}: {message}", path.display())),
            error => with_repro(error, self.emit.folder()),
        })?;
        write_texts(&self.emit, &dumps, &passes)?;
        print(&dumps.graph)
    }
}

/// Prints the passes, one a line.
pub fn list_passes(driver: &Driver) -> Result<(), Failure> {
    let lines = driver.passes().iter().map(|info| format!("{:<22} {}\n", info.pass.name(), info.summary));
    print(&lines.collect::<String>())
}

/// Prints the ops with operands, attributes and the first sentence of their documentation.
pub fn list_ops(driver: &Driver) -> Result<(), Failure> {
    let mut text = String::new();
    for op in driver.ops().iter() {
        let required = op.operands.required.iter().map(|name| format!("%{name}"));
        let optional = op.operands.optional.iter().map(|name| format!("[%{name}]"));
        let rest = op.operands.rest.iter().map(|name| format!("%{name}.."));
        let operands: Vec<String> = required.chain(optional).chain(rest).collect();
        let attrs = if op.attrs.is_empty() { String::new() } else { format!(" {{{}}}", op.attrs.join(", ")) };
        text.push_str(&format!("{} {}{attrs}\n", op.mnemonic, operands.join(", ")));
        for line in op.doc.lines() {
            text.push_str(&format!("   {line}\n"));
        }
    }
    print(&text)
}
