//! `smelt --list-passes`, `--list-ops`, `--list-kernels`: the contents of this program.

use clap::Args;
use serde::Serialize;
use smelt::{Driver, KernelPart, OpPart, Parts, PassPart, PipelineEntry};

use crate::failure::Failure;
use crate::output::{print, print_json};

/// Lists of the program's contents.
#[derive(Clone, Copy, Debug, Args)]
pub struct List {
    /// Lists the passes, by their names for --pass and --disable-pass.
    #[arg(long, group = "list")]
    list_passes: bool,
    /// Lists the ops of the graph text.
    #[arg(long, group = "list")]
    list_ops: bool,
    /// Lists the kernels of each target, in order of preference.
    #[arg(long, group = "list")]
    list_kernels: bool,
}

/// The list of passes as JSON.
#[derive(Serialize)]
struct Passes<'a> {
    schema_version: u32,
    pipeline: &'a [PipelineEntry],
    passes: &'a [PassPart],
}

/// The list of ops as JSON.
#[derive(Serialize)]
struct Ops<'a> {
    schema_version: u32,
    ops: &'a [OpPart],
}

/// The list of kernels as JSON.
#[derive(Serialize)]
struct Kernels<'a> {
    schema_version: u32,
    kernels: &'a [KernelPart],
}

impl List {
    /// Whether a list was requested.
    pub fn wanted(self) -> bool {
        self.list_passes || self.list_ops || self.list_kernels
    }

    /// Prints it.
    pub fn run(self, driver: &Driver, json: bool) -> Result<(), Failure> {
        let parts = driver.parts();
        let Parts { schema_version, pipeline, passes, ops, kernels } = &parts;
        let schema_version = *schema_version;
        match (self.list_passes, self.list_ops) {
            (true, _) if json => print_json(&Passes { schema_version, pipeline, passes }),
            (_, true) if json => print_json(&Ops { schema_version, ops }),
            _ if json => print_json(&Kernels { schema_version, kernels }),
            (true, _) => print(&pass_lines(pipeline, passes)),
            (_, true) => print(&op_lines(ops)),
            _ => print(&kernel_lines(kernels)),
        }
    }
}

/// Passes in the order of the pipeline, then those that only options add.
fn pass_lines(pipeline: &[PipelineEntry], passes: &[PassPart]) -> String {
    let place = |pass: &PassPart| {
        let entry = |entry: &PipelineEntry| matches!(entry, PipelineEntry::Pass(name) if *name == pass.name);
        pipeline.iter().position(entry).unwrap_or(pipeline.len())
    };
    let mut ordered: Vec<&PassPart> = passes.iter().collect();
    ordered.sort_by_key(|pass| place(pass));
    ordered.iter().map(|pass| format!("{}\n    {}\n", pass.name, pass.summary)).collect()
}

/// Ops with operands, attributes and documentation.
fn op_lines(ops: &[OpPart]) -> String {
    let mut text = String::new();
    for op in ops {
        let required = op.operands.iter().map(|name| format!("%{name}"));
        let optional = op.optional_operands.iter().map(|name| format!("[%{name}]"));
        let rest = op.rest.iter().map(|name| format!("%{name}.."));
        let operands: Vec<String> = required.chain(optional).chain(rest).collect();
        let attrs: Vec<&str> = op.attrs.iter().map(|attr| attr.name.as_str()).collect();
        let attrs = if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
        text.push_str(&format!("{} {}{attrs}\n", op.name, operands.join(", ")));
        op.doc.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}

fn kernel_lines(kernels: &[KernelPart]) -> String {
    let width = |of: &dyn Fn(&KernelPart) -> usize| kernels.iter().map(of).max().unwrap_or(0);
    let (target, name) = (width(&|kernel| kernel.target.len()), width(&|kernel| kernel.name.len()));
    let file = width(&|kernel| kernel.file.len());
    let line = |kernel: &KernelPart| {
        let KernelPart { target: of, name: kernel_name, ops, file: path } = kernel;
        format!("{of:<target$}  {kernel_name:<name$}  {path:<file$}  {}\n", ops.join(", "))
    };
    kernels.iter().map(line).collect()
}
