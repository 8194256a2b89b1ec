//! `smelt bench --profile`: what each launch of a step takes, as a table, and as files for other programs.

mod roofline;
mod trace;

use std::path::{Path, PathBuf};

use smelt::plans::{Arithmetic, Bound, Machine};
use smelt::{Ceilings, Llm, ProfiledStep, Step};

use super::runs::Workload;
use crate::commands::inspect::figures::{number_of, percent, time};
use crate::commands::inspect::view::{View, ranges, without_layer};
use crate::commands::profile_file::{self, ProfileFile, ProfiledLaunch, ProfiledProgram, SCHEMA_VERSION, plan_hash};
use crate::failure::Failure;
use crate::output::{bytes, check_place, make_folder, write_file, written_json};

/// Runs of which the medians count.
const RUNS: usize = 20;
/// The run whose prompts are taken: one that is not measured.
const PROMPTS: u64 = u64::MAX;
/// The files of a profile.
const NAMES: [&str; 3] = [profile_file::NAME, "trace.json", "roofline.svg"];

/// Makes the folder, and sees that the files of a profile can be there. Inputs of the command are named before.
pub fn prepare(folder: &Path) -> Result<(), Failure> {
    make_folder(folder)?;
    files(folder).iter().try_for_each(|path| check_place(path))
}

fn files(folder: &Path) -> [PathBuf; 3] {
    NAMES.map(|name| folder.join(name))
}

/// Profiles a prompt step and a decode step halfway through a run, and writes them to a folder; returns their tables.
pub fn run(llm: &mut Llm, load: &Workload, ceilings: &Ceilings, folder: &Path) -> Result<String, Failure> {
    let prompts = load.prompts(llm.plan().plan(), PROMPTS)?;
    let steps = llm.profile(&prompts, load.output_len, RUNS)?;
    let plan = llm.plan();
    let machine = ceilings.machine(&plan.plan().target);
    let views = steps.iter().map(|step| {
        let program = &plan.plan().programs[step.program];
        View::of(plan.plan(), program, machine, step.context().round() as u64)
    });
    let views = views.collect::<Result<Vec<_>, Failure>>()?;
    let measured = steps.iter().zip(&views).map(|(step, view)| Measured::of(llm, step, view, &machine));
    let measured = measured.collect::<Result<Vec<_>, Failure>>()?;
    let file = ProfileFile {
        schema_version: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: ceilings.device.clone(),
        target: plan.plan().target.clone(),
        plan_hash: plan_hash(plan),
        batch_size: load.batch,
        input_len: load.input_len,
        output_len: load.output_len,
        runs: RUNS,
        ceilings: serde_json::to_value(ceilings).map_err(|error| Failure::bad_input(error.to_string()))?,
        steps: measured.iter().map(|measured| measured.step.clone()).collect(),
    };
    let [profile, trace, roofline] = files(folder);
    write_file(&profile, written_json(&file)?.as_bytes())?;
    write_file(&trace, written_json(&trace::trace(&file))?.as_bytes())?;
    write_file(&roofline, roofline::svg(&file, ceilings).as_bytes())?;
    let tables: Vec<String> = measured.iter().map(|measured| measured.table(&file.device)).collect();
    let written = format!("{}: {}\n", folder.display(), NAMES.join(", "));
    Ok(tables.join("\n") + "\n" + &written)
}

/// A step, and its launches as its readers want them.
struct Measured<'a> {
    view: &'a View<'a>,
    step: ProfiledProgram,
    sequences: u64,
    bounds: Vec<Bound>,
}

/// Launches of one kind: those of equal layers together.
#[derive(Default)]
struct Row {
    layers: String,
    op: String,
    site: String,
    launches: u64,
    us: f64,
    bound_us: f64,
    bytes: u64,
    /// That of the first.
    bound: Option<Bound>,
}

impl<'a> Measured<'a> {
    fn of(llm: &Llm, step: &ProfiledStep, view: &'a View<'a>, machine: &Machine) -> Result<Measured<'a>, Failure> {
        let (plan, program) = (llm.plan().plan(), view.program);
        let costs = step.costs(plan);
        let costs = costs.map_err(|error| Failure::bad_input(format!("program `{}`: {error}", program.name)))?;
        let mut bounds = Vec::new();
        let launches = program.steps.iter().zip(costs).zip(&step.times.launches).zip(&view.nodes);
        let launches = launches.map(|(((Step::Launch(launch), cost), us), node)| {
            let estimate = machine.estimate(cost, Arithmetic::of(plan, program, launch));
            bounds.push(estimate.bound);
            ProfiledLaunch {
                site: launch.site.clone(),
                op: node.op.to_owned(),
                kernel: node.kernel.name.clone(),
                us: *us,
                bytes: cost.bytes(),
                flops: cost.flops,
                bound_us: estimate.seconds * 1e6,
            }
        });
        let launches: Vec<ProfiledLaunch> = launches.collect();
        let symbols = step.symbols.iter().map(|(symbol, value)| (symbol.name().to_owned(), *value));
        let step_of = ProfiledProgram {
            program: program.name.clone(),
            symbols: symbols.collect(),
            context: step.context(),
            launches_us: launches.iter().map(|launch| launch.us).sum(),
            apart_us: step.times.apart,
            step_us: step.times.step,
            captured: step.times.captured,
            launches,
        };
        Ok(Measured { view, step: step_of, sequences: step.sequences.len() as u64, bounds })
    }

    /// The launches by layer and op, in the order of the program.
    fn rows(&self) -> Vec<Row> {
        let (sections, into) = self.view.folded();
        let mut rows: Vec<(usize, Row)> = Vec::new();
        for (index, launch) in self.step.launches.iter().enumerate() {
            let place = rows.iter().position(|(first, _)| *first == into[index]).unwrap_or_else(|| {
                let section = sections.iter().find(|section| section.nodes.contains(&into[index]));
                let layers = section.map_or(String::new(), |section| ranges(&section.layers));
                let site = without_layer(&launch.site);
                rows.push((into[index], Row { layers, op: launch.op.clone(), site, ..Row::default() }));
                rows.len() - 1
            });
            let row = &mut rows[place].1;
            row.launches += 1;
            row.us += launch.us;
            row.bound_us += launch.bound_us;
            row.bytes = row.bytes.saturating_add(launch.bytes);
            row.bound = row.bound.or(Some(self.bounds[index]));
        }
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// The step for people.
    fn table(&self, device: &str) -> String {
        let step = &self.step;
        let sequences = number_of(self.sequences, "sequence");
        let tokens = step.symbols.get("T").copied().unwrap_or(self.sequences);
        let mut out = format!(
            "{}: {} of {sequences}, {:.0} cached tokens each, on {device} ({RUNS} runs, medians)\n",
            step.program,
            number_of(tokens, "token"),
            step.context
        );
        let header = ["layers", "op", "computes", "launches", "time", "%", "bound", "% of bound", "set by", "bytes"];
        let mut table = vec![header.map(str::to_owned)];
        for row in self.rows() {
            table.push([
                row.layers.clone(),
                row.op.clone(),
                row.site.clone(),
                row.launches.to_string(),
                time(row.us / 1e6),
                format!("{:.1}", percent(row.us, step.launches_us)),
                time(row.bound_us / 1e6),
                format!("{:.0}", percent(row.bound_us, row.us)),
                row.bound.map_or("", Bound::name).to_owned(),
                bytes(row.bytes),
            ]);
        }
        out += &aligned(&table);
        let bound: f64 = step.launches.iter().map(|launch| launch.bound_us).sum();
        let moved: u64 = step.launches.iter().map(|launch| launch.bytes).fold(0, u64::saturating_add);
        let difference = percent(step.launches_us - step.apart_us, step.apart_us);
        let overlap = percent(step.overlap_us(), step.apart_us);
        let name = if step.captured { "the captured step" } else { "the step as it runs" };
        let launches = number_of(step.launches.len() as u64, "launch|es");
        let lines = [
            (
                "launches alone".to_owned(),
                format!(
                    "{}, bound {}, {} of {launches}",
                    time(step.launches_us / 1e6),
                    time(bound / 1e6),
                    bytes(moved)
                ),
            ),
            (
                "one after the other".to_owned(),
                format!("{} (the sum is {difference:+.1} % from it)", time(step.apart_us / 1e6)),
            ),
            (name.to_owned(), format!("{}, {overlap:.1} % less by overlap", time(step.step_us / 1e6))),
        ];
        for (name, value) in lines {
            out += &format!("{name:<20} {value}\n");
        }
        out
    }
}

/// Columns as wide as they must be: the first three of words, numbers to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0..3 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let cells: Vec<String> = cells.collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
