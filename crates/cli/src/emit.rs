//! `--emit`: the texts of a compilation's stages, collected as they come to be.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::TypedValueParser;
use smelt::extend::ir::{Graph, text};
use smelt::stages::{Lowered, Selection};
use smelt::{CompileReport, Driver, Error, Observer, PassTime, Progress, Unit, dump_plan};

use crate::args::{completed, unknown};
use crate::failure::Failure;
use crate::output::{bytes, check_folder, make_folder, print, print_error, write_file};
use crate::progress::Stderr;
use crate::repro::with_repro;

/// Texts to write besides the plan.
#[derive(Clone, Debug, Default, Args)]
pub struct EmitArgs {
    /// Intermediate texts to write, comma-separated: ir (imported and final), ir-after-all, ir-after-change (after
    /// passes that changed something), ir-after=PASS, passes (statistics and times), kernels (choices with reasons),
    /// plan, cuda, ptx, cubin, sass-report (registers and shared memory of each kernel).
    #[arg(long, value_delimiter = ',', value_name = "WHAT", hide_possible_values = true, value_parser = emit_names())]
    emit: Vec<Emit>,
    /// Directory for --emit and repro.ir; without it, texts go to stdout.
    #[arg(long, value_name = "DIR")]
    dump_dir: Option<PathBuf>,
}

/// An intermediate text of a compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Emit {
    /// The imported graph and the final one.
    Ir,
    /// The graph after each pass.
    IrAfterAll,
    /// The graph after each pass that changed something.
    IrAfterChange,
    /// The graph after a pass.
    IrAfter(String),
    /// What each pass did.
    Passes,
    /// The kernel of each op.
    Kernels,
    /// The plan.
    Plan,
    /// CUDA C of each kernel, without includes.
    Cuda,
    /// PTX of each kernel.
    Ptx,
    /// Machine code of each kernel: requires --dump-dir.
    Cubin,
    /// Registers and shared memory of each kernel.
    SassReport,
}

/// What `--emit` takes besides `ir-after=PASS`.
const NAMES: [(&str, Emit); 10] = [
    ("ir", Emit::Ir),
    ("ir-after-all", Emit::IrAfterAll),
    ("ir-after-change", Emit::IrAfterChange),
    ("passes", Emit::Passes),
    ("kernels", Emit::Kernels),
    ("plan", Emit::Plan),
    ("cuda", Emit::Cuda),
    ("ptx", Emit::Ptx),
    ("cubin", Emit::Cubin),
    ("sass-report", Emit::SassReport),
];
const AFTER: &str = "ir-after=";

impl std::str::FromStr for Emit {
    type Err = String;

    fn from_str(text: &str) -> Result<Emit, String> {
        if let Some(pass) = text.strip_prefix(AFTER).filter(|pass| !pass.is_empty()) {
            return Ok(Emit::IrAfter(pass.to_owned()));
        }
        let found = NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, emit)| emit).ok_or_else(|| {
            let mut names = NAMES.map(|(name, _)| name).to_vec();
            names.insert(3, "ir-after=PASS");
            unknown("text", text, &names)
        })
    }
}

/// The texts of `--emit`, which shells complete.
fn emit_names() -> impl TypedValueParser<Value = Emit> {
    completed(str::parse, || NAMES.iter().map(|(name, _)| *name).chain([AFTER]).map(str::to_owned).collect())
}

impl EmitArgs {
    /// Whether any of these is requested.
    fn wants(&self, what: &[Emit]) -> bool {
        self.emit.iter().any(|emit| what.contains(emit))
    }

    /// Whether anything is requested.
    pub fn any(&self) -> bool {
        !self.emit.is_empty()
    }

    /// Whether requested texts go to stdout.
    pub fn to_stdout(&self) -> bool {
        self.any() && self.dump_dir.is_none()
    }

    /// Whether kernels are to be compiled even if no plan is written.
    pub fn needs_code(&self) -> bool {
        self.wants(&[Emit::Ptx, Emit::Cubin, Emit::SassReport])
    }

    /// Whether texts are requested, and kernels need not be compiled for any of them.
    pub fn without_code(&self) -> bool {
        self.any() && !self.needs_code()
    }

    /// Names of the passes whose graphs are requested.
    fn named_passes(&self) -> impl Iterator<Item = &String> {
        self.emit.iter().filter_map(|emit| if let Emit::IrAfter(pass) = emit { Some(pass) } else { None })
    }

    /// Whether graphs after passes are requested.
    fn after_passes(&self) -> bool {
        self.wants(&[Emit::IrAfterAll, Emit::IrAfterChange]) || self.named_passes().next().is_some()
    }

    /// Whether the graph after a pass is requested.
    fn after(&self, pass: &PassTime) -> bool {
        self.wants(&[Emit::IrAfterAll])
            || if self.wants(&[Emit::IrAfterChange]) {
                pass.changed
            } else {
                self.named_passes().any(|name| *name == pass.name)
            }
    }

    /// Refuses unknown passes, and binary texts for stdout.
    pub fn check(&self, driver: &Driver) -> Result<(), Failure> {
        if self.wants(&[Emit::Cubin]) && self.dump_dir.is_none() {
            return Err(Failure::usage("--emit cubin writes binary files: expected a directory with --dump-dir"));
        }
        Ok(self.named_passes().try_for_each(|name| driver.pass_named(name).map(drop))?)
    }

    /// Whether any text other than those of passes is requested.
    pub fn beyond_passes(&self) -> bool {
        let of_passes = |emit: &Emit| {
            matches!(emit, Emit::Ir | Emit::IrAfterAll | Emit::IrAfterChange | Emit::IrAfter(_) | Emit::Passes)
        };
        !self.emit.iter().all(of_passes)
    }

    /// Creates the directory, unless one of its texts would replace an input or another output.
    pub fn prepare_folder(&self, outputs: &[PathBuf]) -> Result<(), Failure> {
        let Some(folder) = &self.dump_dir else { return Ok(()) };
        check_folder(folder, outputs, |name| self.writes(name))?;
        make_folder(folder)
    }

    /// Whether a file of this name may be among the texts.
    fn writes(&self, name: &str) -> bool {
        let of_pass = || name.ends_with(".ir") && name.starts_with(|c: char| c.is_ascii_digit()) && name.contains('-');
        match name {
            "imported.ir" | "graph.ir" => self.wants(&[Emit::Ir]),
            "passes.txt" => self.wants(&[Emit::Passes]),
            "kernels.txt" => self.wants(&[Emit::Kernels]),
            "plan.txt" => self.wants(&[Emit::Plan]),
            "sass-report.txt" => self.wants(&[Emit::SassReport]),
            _ if name.ends_with(".cu") => self.wants(&[Emit::Cuda]),
            _ if name.ends_with(".ptx") => self.wants(&[Emit::Ptx]),
            _ if name.ends_with(".cubin") => self.wants(&[Emit::Cubin]),
            _ => of_pass() && self.after_passes(),
        }
    }

    /// The directory for reproducers.
    pub fn folder(&self) -> Option<&Path> {
        self.dump_dir.as_deref()
    }
}

/// The requested texts of a compilation.
pub struct Texts<'a> {
    emit: &'a EmitArgs,
    imported: String,
    /// Number of a pass, its name and the graph after it.
    after_passes: Vec<(usize, String, String)>,
    graph: String,
    passes: Vec<PassTime>,
    kernels: String,
    plan: String,
    units: Vec<Unit>,
}

impl Observer for Texts<'_> {
    fn imported(&mut self, graph: &Graph) {
        self.imported = self.text(Emit::Ir, || text::print(graph));
    }

    fn after_pass(&mut self, pass: &PassTime, graph: &Graph) {
        if self.emit.after(pass) {
            self.after_passes.push((self.passes.len(), pass.name.clone(), text::print(graph)));
        }
        self.passes.push(pass.clone());
    }

    fn selected(&mut self, graph: &Graph, _: &Selection) {
        self.graph = self.text(Emit::Ir, || text::print(graph));
    }

    fn lowered(&mut self, lowered: &Lowered) {
        self.built(lowered, &Unit::sources(&lowered.plan));
    }

    fn built(&mut self, lowered: &Lowered, units: &[Unit]) {
        self.kernels = self.text(Emit::Kernels, || lowered.selection().print());
        self.plan = self.text(Emit::Plan, || dump_plan(&lowered.plan));
        self.units = units.to_vec();
    }
}

impl<'a> Texts<'a> {
    /// None yet.
    pub fn new(emit: &'a EmitArgs) -> Texts<'a> {
        Texts {
            emit,
            imported: String::new(),
            after_passes: Vec::new(),
            graph: String::new(),
            passes: Vec::new(),
            kernels: String::new(),
            plan: String::new(),
            units: Vec::new(),
        }
    }

    /// A text, if it is requested.
    fn text(&self, what: Emit, text: impl FnOnce() -> String) -> String {
        if self.emit.emit.contains(&what) { text() } else { String::new() }
    }

    /// The graph at the end of passes that no kernels are selected for.
    pub fn end(&mut self, graph: &str) {
        self.graph = self.text(Emit::Ir, || graph.to_owned());
    }

    /// Writes the texts to the directory, or prints them.
    pub fn write(&self) -> Result<(), Failure> {
        for wanted in self.emit.named_passes() {
            if !self.after_passes.iter().any(|(_, pass, _)| pass == wanted) {
                print_error(&format!("note: pass `{wanted}` did not run"));
            }
        }
        let texts = self.files();
        let Some(folder) = &self.emit.dump_dir else {
            return texts.into_iter().try_for_each(|(name, text)| print(&format!("// {name}\n{text}")));
        };
        make_folder(folder)?;
        let cubins = self.units.iter().filter(|_| self.emit.wants(&[Emit::Cubin]));
        for Unit { name, cubin, .. } in cubins {
            write_file(&folder.join(format!("{name}.cubin")), cubin)?;
        }
        texts.into_iter().try_for_each(|(name, text)| write_file(&folder.join(name), text.as_bytes()))
    }

    /// The texts by file name.
    fn files(&self) -> Vec<(String, String)> {
        let mut files =
            vec![("imported.ir".to_owned(), self.imported.clone()), ("graph.ir".to_owned(), self.graph.clone())];
        let after = self.after_passes.iter();
        files.extend(after.map(|(index, pass, text)| (format!("{index:02}-{pass}.ir"), text.clone())));
        if !self.passes.is_empty() {
            files.push(("passes.txt".to_owned(), self.text(Emit::Passes, || pass_table(&self.passes))));
        }
        files.push(("kernels.txt".to_owned(), self.kernels.clone()));
        files.push(("plan.txt".to_owned(), self.plan.clone()));
        files.push(("sass-report.txt".to_owned(), self.text(Emit::SassReport, || sass_report(&self.units))));
        for unit in &self.units {
            files.push((format!("{}.cu", unit.name), self.text(Emit::Cuda, || unit.source.clone())));
            files.push((format!("{}.ptx", unit.name), self.text(Emit::Ptx, || unit.ptx.clone())));
        }
        files.retain(|(_, text)| !text.is_empty());
        files
    }
}

/// Compiles with progress on stderr, unless `quiet`, and writes the requested texts.
pub fn compile(
    emit: &EmitArgs,
    quiet: bool,
    run: impl FnOnce(&mut Texts<'_>, &mut dyn Progress) -> Result<CompileReport, Error>,
) -> Result<CompileReport, Failure> {
    let (mut texts, mut progress) = (Texts::new(emit), Stderr::new(quiet));
    let report = run(&mut texts, &mut progress);
    progress.finish();
    // the texts before a failure are what shows its cause
    let written = texts.write();
    let report = report.map_err(|error| with_repro(error, emit.folder()))?;
    written?;
    let of_kernels = [Emit::Cuda, Emit::Ptx, Emit::Cubin, Emit::SassReport];
    if emit.wants(&of_kernels) && texts.units.is_empty() {
        print_error(&format!("note: kernels of the target `{}` have no CUDA C to emit", report.target));
    }
    Ok(report)
}

/// What each pass did, in the order in which they ran.
fn pass_table(passes: &[PassTime]) -> String {
    let width = passes.iter().map(|pass| pass.name.len()).max().unwrap_or(0).max(28);
    let head = format!(
        "{:<6} {:<width$} {:>7} {:>10} {:>9} {:>9}\n",
        "bisect", "pass", "changed", "ops before", "ops after", "ms"
    );
    let row = |pass: &PassTime| {
        let changed = if pass.changed { "yes" } else { "no" };
        let bisect = pass.bisect.map_or_else(String::new, |number| number.to_string());
        let PassTime { name, ops_before, ops_after, ms, .. } = pass;
        format!("{bisect:>6} {name:<width$} {changed:>7} {ops_before:>10} {ops_after:>9} {ms:>9.3}\n")
    };
    passes.iter().fold(head, |text, pass| text + &row(pass))
}

/// Resource usage of each kernel. Spills and stack frames are not in it: they fail the compilation.
fn sass_report(units: &[Unit]) -> String {
    let head = format!(
        "{:<28} {:>7} {:>9} {:>13} {:>14} {:>9}  {}\n",
        "kernel", "threads", "registers", "static shared", "dynamic shared", "code", "instance"
    );
    let row = |unit: &Unit| {
        // as `Body::text` of codegen writes it
        let instance = unit.source.lines().find_map(|line| line.strip_prefix("using Body = "));
        format!(
            "{:<28} {:>7} {:>9} {:>13} {:>14} {:>9}  {}\n",
            unit.name,
            unit.threads,
            unit.usage.registers,
            unit.usage.static_shared_bytes,
            unit.shared_bytes,
            bytes(unit.cubin.len() as u64),
            instance.unwrap_or_default().trim_end_matches(';').replace("smelt::", "")
        )
    };
    units.iter().fold(head, |text, unit| text + &row(unit))
}
