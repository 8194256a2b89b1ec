//! `profile.json`: what launches of a plan took on a device. `bench --profile` writes it, `inspect --profile` reads it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use smelt::plans::input;
use smelt::{Error, PlanFile, Program, Step};

use crate::failure::Failure;

/// The version of the file's fields.
pub const SCHEMA_VERSION: u32 = 1;
/// The name of the file.
pub const NAME: &str = "profile.json";
/// Most bytes of one: some hundred for each launch.
const MOST_BYTES: u64 = 64 << 20;

/// The steps of a plan that were timed.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProfileFile {
    pub schema_version: u32,
    /// The version of the program.
    pub version: String,
    pub device: String,
    pub target: String,
    /// The hash of the plan.
    pub plan_hash: String,
    pub batch_size: usize,
    pub input_len: usize,
    pub output_len: u32,
    /// Runs of which times are medians.
    pub runs: usize,
    /// What the device does at most, by which launches are bounded.
    pub ceilings: serde_json::Value,
    pub steps: Vec<ProfiledProgram>,
}

/// A step of a program. Times in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProfiledProgram {
    pub program: String,
    /// Its sizes, by the names of the symbols.
    pub symbols: std::collections::BTreeMap<String, u64>,
    /// Cached tokens of a sequence after the step, the mean.
    pub context: f64,
    /// The sum of the launches, each alone.
    pub launches_us: f64,
    /// All launches, one after the other.
    pub apart_us: f64,
    /// The step as it runs otherwise.
    pub step_us: f64,
    /// Whether that is a recorded graph.
    pub captured: bool,
    /// In the order of the program.
    pub launches: Vec<ProfiledLaunch>,
}

/// A launch. Times in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProfiledLaunch {
    pub site: String,
    pub op: String,
    pub kernel: String,
    pub us: f64,
    pub bytes: u64,
    pub flops: u64,
    /// What it takes at the least by the ceilings.
    pub bound_us: f64,
}

impl ProfileFile {
    /// Reads a profile, which must be one of this plan.
    pub fn of_plan(path: &Path, plan: &PlanFile) -> Result<ProfileFile, Failure> {
        let refused = |reason: String| Failure::bad_input(format!("{}: {reason}", path.display()));
        let io = |error| Failure::from(Error::Io { path: path.to_owned(), error });
        let text = input::read_text(path, MOST_BYTES).map_err(io)?;
        // what it has beside may be of another version
        let version = serde_json::from_str::<serde_json::Value>(&text).ok();
        let version = version.and_then(|value| value.get("schema_version")?.as_u64());
        if version != Some(SCHEMA_VERSION.into()) {
            return Err(refused(format!("is no profile of version {SCHEMA_VERSION}, as `bench --profile` writes it")));
        }
        let file: ProfileFile = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
        if file.plan_hash != plan_hash(plan) {
            let (found, wanted) = (&file.plan_hash, plan_hash(plan));
            return Err(refused(format!("is a profile of another plan, {found}, expected that of {wanted}")));
        }
        for step in &file.steps {
            let program = plan.plan().programs.iter().find(|program| program.name == step.program);
            if !program.is_some_and(|program| step.is_of(program)) {
                return Err(refused(format!("the launches of `{}` are not those of the plan", step.program)));
            }
        }
        Ok(file)
    }

    /// The step of a program.
    pub fn step(&self, program: &str) -> Option<&ProfiledProgram> {
        self.steps.iter().find(|step| step.program == program)
    }
}

impl ProfiledProgram {
    fn is_of(&self, program: &Program) -> bool {
        let sites = program.steps.iter().map(|Step::Launch(launch)| &launch.site);
        self.launches.iter().map(|launch| &launch.site).eq(sites)
    }

    /// What launches gain by overlapping, as part of all of them one after the other.
    pub fn overlap_us(&self) -> f64 {
        self.apart_us - self.step_us
    }
}

/// The hash of a plan as people compare it.
pub fn plan_hash(plan: &PlanFile) -> String {
    plan.hash().iter().map(|byte| format!("{byte:02x}")).collect()
}
