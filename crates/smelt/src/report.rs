//! The report of a compilation, and the code of its kernels.

use codegen::Lowered;
use codegen::cuda::{Built, Usage};
use passes::{Changed, PassReport};
use plan::Plan;
use serde::Serialize;

use crate::GateReport;
use crate::settings::workspace;

/// Report of a compilation. Sizes are in bytes, times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct CompileReport {
    /// Version of this report's fields.
    pub schema_version: u32,
    /// Target of the plan.
    pub target: String,
    /// Why it was chosen, if it was not named.
    pub target_reason: Option<String>,
    /// Architecture of the model.
    pub architecture: String,
    /// Scalar weights of the checkpoint.
    pub parameters: u64,
    /// The effective configuration.
    pub config: Vec<(String, String)>,
    /// Size of the plan file; `None` on a dry run.
    pub plan_bytes: Option<u64>,
    /// Weights once loaded.
    pub weight_bytes: u64,
    /// Weights stored in the file; the others are generated when the plan is loaded.
    pub stored_weight_bytes: u64,
    /// KV cache per token.
    pub kv_bytes_per_token: u64,
    /// KV cache.
    pub kv_bytes: u64,
    /// The largest arena of any program.
    pub workspace_bytes: u64,
    /// Weights, KV cache and workspace.
    pub memory_bytes: u64,
    /// What they have to fit in, if that is known.
    pub device_memory: Option<DeviceMemory>,
    /// Names of the programs.
    pub programs: Vec<String>,
    /// Distinct kernels.
    pub kernels: usize,
    /// Passes in the order in which they ran.
    pub passes: Vec<PassTime>,
    /// Time of the whole compilation.
    pub total_ms: f64,
    /// What a gate measured, if there is one.
    pub gate: Option<GateReport>,
    /// Warnings of the importer, missing timings, and slow fallback kernels.
    pub warnings: Vec<String>,
}

/// The memory of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// Its name.
    pub device: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Statistics of one pass.
#[derive(Clone, Debug, Serialize)]
pub struct PassTime {
    /// Its number, from 1, among those that `bisect_limit` counts; `None` if it is required.
    pub bisect: Option<usize>,
    /// Its name.
    pub name: String,
    /// Whether it changed the graph.
    pub changed: bool,
    /// Ops and inputs before.
    pub ops_before: usize,
    /// Ops and inputs after.
    pub ops_after: usize,
    /// Duration in milliseconds.
    pub ms: f64,
}

impl From<&PassReport> for PassTime {
    fn from(report: &PassReport) -> PassTime {
        PassTime {
            bisect: report.bisect,
            name: report.name.clone(),
            changed: report.changed == Changed::Yes,
            ops_before: report.ops_before,
            ops_after: report.ops_after,
            ms: report.time.as_secs_f64() * 1e3,
        }
    }
}

impl CompileReport {
    /// Of a plan that is not written yet.
    pub(crate) fn of(lowered: &Lowered, passes: Vec<PassTime>, warnings: Vec<String>) -> CompileReport {
        let plan = &lowered.plan;
        let weight_bytes = plan.weights.iter().filter_map(plan::Weight::bytes).sum();
        let kv_bytes = plan.kv.iter().map(plan::KvGroup::pool_bytes).sum();
        CompileReport {
            schema_version: 1,
            target: plan.target.clone(),
            target_reason: None,
            architecture: plan.model.architecture.clone(),
            parameters: plan.model.parameters,
            config: plan.config.clone(),
            plan_bytes: None,
            weight_bytes,
            stored_weight_bytes: lowered.stored_bytes(),
            kv_bytes_per_token: plan.kv.iter().map(plan::KvGroup::bytes_per_token).sum(),
            kv_bytes,
            workspace_bytes: workspace(plan),
            memory_bytes: weight_bytes + kv_bytes + workspace(plan),
            device_memory: None,
            programs: plan.programs.iter().map(|program| program.name.clone()).collect(),
            kernels: plan.kernels.len(),
            passes,
            total_ms: 0.0,
            gate: None,
            warnings,
        }
    }
}

/// The code of one kernel of a plan.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its index and name in the plan, such as `k3-linear_skinny`.
    pub name: String,
    /// CUDA C, without includes.
    pub source: String,
    /// PTX; empty if it was not compiled.
    pub ptx: String,
    /// Machine code; empty if it was not compiled.
    pub cubin: Vec<u8>,
    /// Its resource usage.
    pub usage: Usage,
    /// Threads per block.
    pub threads: u32,
    /// Bytes of dynamic shared memory per block.
    pub shared_bytes: u32,
}

impl Unit {
    /// The units of a plan that is not built: sources alone.
    pub fn sources(plan: &Plan) -> Vec<Unit> {
        Unit::built(plan, Vec::new())
    }

    /// The units of a plan, with their compiled code.
    pub(crate) fn built(plan: &Plan, built: Vec<Built>) -> Vec<Unit> {
        let mut built = built.into_iter();
        let kernels = plan.kernels.iter().enumerate().filter_map(|(index, kernel)| {
            let Built { cubin, ptx, usage, .. } = built.next().unwrap_or_default();
            let code = kernel.code.as_ref()?;
            let (name, source) = (format!("k{index}-{}", kernel.name), code.source.clone());
            Some(Unit { name, source, ptx, cubin, usage, threads: code.threads, shared_bytes: code.shared_bytes })
        });
        kernels.collect()
    }
}
