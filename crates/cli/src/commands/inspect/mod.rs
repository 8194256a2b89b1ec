//! `smelt inspect`

mod arena;
mod calibration;
mod diff;
mod diff_page;
mod dot;
pub(super) mod figures;
pub(super) mod html;
mod page;
mod precision;
mod source;
mod summary;
#[cfg(test)]
mod tests;
pub(super) mod view;
mod weights;

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use smelt::plans::Machine;
use smelt::{Error, Plan, PlanFile, Program, read_calibration};

use super::memory;
use super::profile_file::ProfileFile;
use crate::args::{machine_names, parse_count};
use crate::failure::Failure;
use crate::model::open_plan;
use crate::output::{bytes, check_place, print, print_json, reads, write_file};
use diff::{Diff, Side};
use page::Subject;
use precision::Precision;
use summary::Summary;
use view::View;

/// Context length of predictions by default.
const CONTEXT: u32 = 1024;

/// Shows the contents of a plan or a calibration.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["memory", "html", "diff", "dot"]).multiple(true))]
pub struct Inspect {
    /// Plan or calibration file.
    #[arg(value_name = "FILE.plan|CALIBRATION.json")]
    plan: PathBuf,
    /// Shows the arena's memory map: the fullest step of a program, and every buffer with its lifetime.
    #[arg(long, conflicts_with_all = ["html", "diff", "dot"])]
    memory: bool,
    /// Shows each linear layer's format and the reason: a table that compile reads back with --precision-map.
    #[arg(long, conflicts_with = "what")]
    precision: bool,
    /// Writes an HTML page: predicted time, launches by layer with kernels and costs, memory, and the CUDA C. For a
    /// calibration: histograms with clips. With --diff: what differs.
    #[arg(long, value_name = "OUT.html", conflicts_with = "dot")]
    html: Option<PathBuf>,
    /// Shows measured times next to their bounds on the page: profile.json of this plan, written by bench --profile.
    #[arg(long, value_name = "profile.json", requires = "html", conflicts_with = "diff")]
    profile: Option<PathBuf>,
    /// Shows the differences to another plan. The exit code is 0 either way.
    #[arg(long, value_name = "OTHER.plan", conflicts_with = "dot")]
    diff: Option<PathBuf>,
    /// Prints a program in Graphviz format.
    #[arg(long)]
    dot: bool,
    /// The program, such as decode@1 [default: all for --html and --diff, the first for --dot, the one with the largest
    /// arena for --memory].
    #[arg(long, value_name = "NAME", requires = "what")]
    program: Option<String>,
    /// Cached tokens per sequence that predictions assume [default: 1024, or as many as the plan allows].
    #[arg(long, value_name = "N", requires = "what", conflicts_with = "memory", value_parser = parse_count::<u32>)]
    context: Option<u32>,
    /// Machine whose roofline predicts times: h200, h100 or cpu [default: by target].
    #[arg(long, value_name = "NAME", requires = "what", conflicts_with = "memory", hide_possible_values = true, value_parser = machine_names())]
    machine: Option<Machine>,
    /// Prints JSON.
    #[arg(long, conflicts_with_all = ["html", "dot"])]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> Result<(), Failure> {
        reads(&self.plan);
        self.diff.iter().chain(&self.profile).for_each(|path| reads(path));
        self.html.iter().try_for_each(|path| check_place(path))?;
        if self.plan.extension().is_some_and(|extension| extension == "json") {
            return self.calibration();
        }
        let file = open(&self.plan)?;
        if self.memory {
            let memory = memory::Memory::of(file.plan(), self.program.as_deref())?;
            return if self.json { print_json(&memory) } else { print(&memory.table()) };
        }
        if self.precision {
            let all_numbers = "the plan is unquantized: it was compiled without --precision or --precision-map";
            let precision = Precision::of(file.plan()).ok_or_else(|| Failure::usage(all_numbers))?;
            return if self.json { print_json(&precision) } else { print(precision.table()) };
        }
        if let Some(path) = &self.diff {
            let other = open(path)?;
            let [a, b] = [(&file, &self.plan), (&other, path)].map(|(file, path)| {
                let views = self.views(file.plan());
                let views = views.map_err(|failure| failure.help(format!("looked for in {}", path.display())));
                Ok::<_, Failure>(Side { file, views: views? })
            });
            let diff = Diff::of(&a?, &b?);
            return match &self.html {
                Some(page) => write_html(page, &diff_page::page(&diff, &name_of(&self.plan), &name_of(path))),
                None if self.json => print_json(&diff),
                None => print(&diff.text()),
            };
        }
        if let Some(path) = &self.html {
            return self.write_page(&file, path);
        }
        if self.dot {
            let views = self.views(file.plan())?;
            let first = views.first().ok_or_else(|| Failure::bad_input("the plan has no programs"))?;
            return print(&dot::dot(first));
        }
        let summary = Summary::of(&file);
        if self.json { print_json(&summary) } else { print(&summary.table()) }
    }

    fn calibration(&self) -> Result<(), Failure> {
        let of_plans = self.memory || self.precision || self.dot || self.diff.is_some() || self.profile.is_some();
        if of_plans || self.program.is_some() {
            return Err(Failure::usage("a calibration is shown as a table, or with --html or --json"));
        }
        let calibration = read_calibration(&self.plan)?;
        let report = calibration::Report::of(&calibration);
        match &self.html {
            Some(path) => write_html(path, &report.page(&name_of(&self.plan))),
            None if self.json => print_json(&report),
            None => print(&report.table()),
        }
    }

    fn write_page(&self, file: &PlanFile, path: &Path) -> Result<(), Failure> {
        let plan = file.plan();
        let profile = self.profile.as_ref().map(|path| ProfileFile::of_plan(path, file)).transpose()?;
        let mut views = self.views(plan)?;
        if let Some(profile) = profile {
            views = views.into_iter().map(|view| view.with(&profile)).collect();
        }
        let page = page::page(&Subject { plan, name: name_of(&self.plan), views, context: self.context(plan)? });
        write_html(path, &page)
    }

    /// The requested programs, on the requested machine.
    fn views<'a>(&self, plan: &'a Plan) -> Result<Vec<View<'a>>, Failure> {
        let context = u64::from(self.context(plan)?);
        let machine = self.machine.unwrap_or_else(|| Machine::of_target(&plan.target));
        let view = |program: &'a Program| View::of(plan, program, machine, context);
        match &self.program {
            Some(name) => Ok(vec![view(memory::program(plan, name)?)?]),
            None => plan.programs.iter().map(view).collect(),
        }
    }

    fn context(&self, plan: &Plan) -> Result<u32, Failure> {
        let most = plan.limits.max_seq_len;
        match self.context {
            Some(context) if context > most => Err(Failure::usage(format!(
                "expected a context of at most {most} tokens, the plan's maximum sequence length"
            ))),
            context => Ok(context.unwrap_or(CONTEXT.min(most))),
        }
    }
}

/// What the user calls a plan: its file, or the folder of a `model.plan`.
fn name_of(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name).filter(|_| path.ends_with("model.plan"));
    let name = folder.or(path.file_stem()).unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn write_html(path: &Path, page: &str) -> Result<(), Failure> {
    write_file(path, page.as_bytes())?;
    print(&format!("{} ({})\n", path.display(), bytes(page.len() as u64)))
}

/// Opens a plan and reads all of it once, so that the view matches what was written.
fn open(path: &Path) -> Result<PlanFile, Failure> {
    let file = open_plan(path)?;
    for chunk in 0..file.chunk_count() {
        file.verify_chunk(chunk).map_err(Error::from)?;
    }
    Ok(file)
}
