//! `cargo xtask mutate`: damaged inputs of every kind, each read by the program in its own process, whose behaviour is
//! judged by what is promised: a documented exit code, one short error, bounded time and memory, nothing left over.
//!
//! A seed and an index identify a mutant, so a finding is reproduced with `--seed S --only INDEX`.

mod bytes;
mod corpus;
mod json;
mod judge;
mod kinds;
mod mutant;
mod plans;
mod random;
mod report;
mod safetensors;
#[cfg(test)]
mod tests;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;

use crate::process::smelt;
use corpus::Corpus;
use judge::{Fault, Limits, Outcome};
use mutant::Mutant;
use report::{Finding, Report};

/// Concurrent processes.
const WORKERS: usize = 2;
/// Mutants of a run in CI, and their seed.
const IN_CI: (u64, u64) = (1500, 1);

/// What to damage, and how often.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Number of mutants.
    #[arg(long, value_name = "N", default_value_t = IN_CI.0)]
    count: u64,
    /// Identifies the mutants, together with their index.
    #[arg(long, value_name = "S", default_value_t = IN_CI.1)]
    seed: u64,
    /// Makes and runs only the mutant of this index, and shows its output.
    #[arg(long, value_name = "INDEX")]
    only: Option<u64>,
    /// The kinds of input to damage; may be repeated.
    #[arg(long, value_name = "NAME")]
    kind: Vec<String>,
    /// The program [default: smelt, as built by cargo].
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Writes the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What CI runs.
pub fn in_ci(root: &Path) -> Result<(), String> {
    run(root, &Options { count: IN_CI.0, seed: IN_CI.1, only: None, kind: Vec::new(), program: None, json: None })
}

/// Runs the program on each mutant, and fails if one was handled wrongly.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    if let Some(name) = options.kind.iter().find(|name| !kinds::KINDS.iter().any(|kind| kind.name == **name)) {
        let known: Vec<&str> = kinds::KINDS.iter().map(|kind| kind.name).collect();
        return Err(format!("unknown kind `{name}`, expected one of: {}", known.join(", ")));
    }
    let program = match &options.program {
        Some(path) => path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?,
        None => smelt(root)?,
    };
    // a single mutant leaves the findings of the previous run
    let folder = root.join(if options.only.is_some() { "target/mutate-only" } else { "target/mutate" });
    let harness = Harness::new(root, &program, options.clone(), Limits::default(), &folder)?;
    if let Some(index) = options.only {
        return harness.show(index);
    }
    let report = harness.run()?;
    print!("{report}");
    if let Some(path) = &options.json {
        fs::write(path, report.json()).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    match report.findings.len() {
        0 => Ok(()),
        wrong => Err(format!("{wrong} of {} mutants were handled wrongly\n{}", report.count(), report.wrong())),
    }
}

/// A program, its inputs, and its directory.
struct Harness {
    corpus: Corpus,
    program: PathBuf,
    options: Options,
    limits: Limits,
    folder: PathBuf,
}

impl Harness {
    fn new(root: &Path, program: &Path, options: Options, limits: Limits, folder: &Path) -> Result<Harness, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(failed)?;
        }
        fs::create_dir_all(folder).map_err(failed)?;
        // plans are written there before they are a file of a mutant
        let folder = folder.canonicalize().map_err(failed)?;
        let corpus = Corpus::new(root, program, &folder)?;
        Ok(Harness { corpus, program: program.to_owned(), options, limits, folder })
    }

    fn mutant(&self, index: u64, scratch: &str) -> Result<Mutant, String> {
        let name = (self.options.seed, index);
        kinds::make(&self.corpus, name, &self.options.kind, &self.folder.join(scratch))
            .map_err(|error| format!("mutant {index} of seed {}: {error}", self.options.seed))
    }

    /// Runs all mutants, two at a time.
    fn run(&self) -> Result<Report, String> {
        let start = Instant::now();
        let next = AtomicU64::new(0);
        let report = Mutex::new(Report::new(self.options.seed, self.again()));
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (next, report, failure) = (&next, &report, &failure);
                scope.spawn(move || {
                    if let Err(error) = self.work(worker, next, report) {
                        next.store(self.options.count, Ordering::Relaxed);
                        *failure.lock().expect("no worker panics with it") = Some(error);
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().expect("no worker panics with it") {
            return Err(error);
        }
        let mut report = report.into_inner().expect("no worker panics with it");
        self.judge_slow_ones_again(&mut report)?;
        report.seconds = start.elapsed().as_secs();
        report.findings.sort_by_key(|finding| finding.index);
        for finding in report.examples() {
            self.keep(finding)?;
        }
        Ok(report)
    }

    fn work(&self, worker: usize, next: &AtomicU64, report: &Mutex<Report>) -> Result<(), String> {
        let (place, scratch) = (self.folder.join(format!("run-{worker}")), format!("scratch-{worker}"));
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.options.count {
                return fs::remove_dir_all(&place).or_else(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(format!("{}: {error}", place.display())),
                });
            }
            let mutant = self.mutant(index, &scratch)?;
            let outcome = judge::run(&self.program, &mutant, &place, &self.limits)?;
            report.lock().expect("no worker panics with it").add(index, &mutant, outcome);
        }
    }

    /// On a busy machine, a slow run may be fast alone.
    fn judge_slow_ones_again(&self, report: &mut Report) -> Result<(), String> {
        let place = self.folder.join("again");
        let slow = report.findings.iter_mut().filter(|finding| finding.outcome.faults.contains(&Fault::Slow));
        for finding in slow {
            let mutant = self.mutant(finding.index, "scratch")?;
            finding.outcome = judge::run(&self.program, &mutant, &place, &self.limits)?;
        }
        report.findings.retain(|finding| !finding.outcome.faults.is_empty());
        Ok(())
    }

    /// Keeps the files of a finding, its output, and how to reproduce it.
    fn keep(&self, finding: &Finding) -> Result<(), String> {
        let mutant = self.mutant(finding.index, "scratch")?;
        let folder = self.folder.join(format!("{}-{}-{}", finding.kind, self.options.seed, finding.index));
        let write = |name: &str, bytes: &[u8]| {
            fs::write(folder.join(name), bytes).map_err(|error| format!("{}: {error}", folder.display()))
        };
        fs::create_dir_all(folder.join("in")).map_err(|error| format!("{}: {error}", folder.display()))?;
        mutant.write(&folder.join("in"))?;
        write("stdout", &finding.outcome.stdout)?;
        write("stderr", &finding.outcome.stderr)?;
        let faults: Vec<String> = finding.outcome.faults.iter().map(Fault::to_string).collect();
        let text = format!("{}\n{} --only {}\n{}\n", faults.join("\n"), self.again(), finding.index, mutant.line());
        write("finding.txt", text.as_bytes())
    }

    /// The command that reproduces a mutant, without its index.
    fn again(&self) -> String {
        let kinds: String = self.options.kind.iter().map(|kind| format!(" --kind {kind}")).collect();
        format!("cargo xtask mutate --seed {}{kinds}", self.options.seed)
    }

    /// Runs one mutant and shows its output.
    fn show(&self, index: u64) -> Result<(), String> {
        let mutant = self.mutant(index, "scratch")?;
        let outcome = judge::run(&self.program, &mutant, &self.folder.join("run"), &self.limits)?;
        let Outcome { code, stderr, time, peak, faults, .. } = &outcome;
        println!("{}: {}", mutant.kind, mutant.line());
        println!("in {}", self.folder.join("run").display());
        let text = String::from_utf8_lossy(stderr);
        text.lines().take(20).for_each(|line| println!("  {}", line.escape_debug()));
        println!("exit code {code:?}, {:.2} s, {} MiB", time.as_secs_f64(), peak >> 20);
        if faults.is_empty() {
            return Ok(());
        }
        Err(faults.iter().map(Fault::to_string).collect::<Vec<_>>().join(", "))
    }
}
