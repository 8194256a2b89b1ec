//! smelt compiles a language model into a plan and runs it. This crate is its public API.
//!
//! ```standalone_crate
//! # std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
//! use smelt::{GenerationParams, Llm, Prompt};
//!
//! let mut llm = Llm::load("models/demo")?;
//! let params = GenerationParams { max_tokens: 16, ..GenerationParams::default() };
//! let generations = llm.generate(&[Prompt::from("This function returns")], &params)?;
//! let text = generations[0].text.as_deref().unwrap_or_default();
//! assert!(text.starts_with(" a `Result<T, E>`"), "{text}");
//! # Ok::<(), smelt::Error>(())
//! ```
//!
//! [`Driver`] is for those who need more than the defaults: it compiles checkpoints to plan files, with passes, ops and
//! kernels of one's own. [`Compilation`] does so stage by stage.

mod answer;
mod cache;
mod calibrate;
mod ceilings;
mod checkpoint_files;
mod compilation;
mod driver;
mod error;
pub mod eval;
mod export;
mod gate;
mod generation;
mod llm;
mod mixed;
mod observer;
mod options;
mod parts;
mod precision;
mod product;
mod profile;
mod progress;
mod report;
mod requests;
mod service;
mod settings;
mod source;
mod tuning;

pub use answer::Answer;
pub use cache::PlanCache;
pub use calibrate::{
    ActivationFile, CalibrateOptions, CalibrateReport, Dataset, activations_path, check_calibration,
    merge_calibrations, read_calibration,
};
pub use ceilings::{CeilingSizes, Ceilings, ProductCeiling, RateSource};
pub use checkpoint_files::checkpoint_files;
pub use codegen::{Target, cuda};
pub use compilation::Compilation;
pub use driver::{Driver, RunOptions};
pub use engine::{
    FinishReason, GenerationParams, Policy, ProfiledSequence, ProfiledStep, RequestId, Settings as EngineSettings,
    Stats as EngineStats,
};
pub use error::{Error, ErrorKind, Refused};
pub use export::QuantizeReport;
pub use gate::{Bound, Gate, GateFailure, GateReport, Gated, Measured};
pub use generation::{GenerateTimings, Generation, Prompt};
pub use llm::{Llm, LoadOptions, NewToken};
pub use mixed::{Goal, Group, GroupFormat, LossCache, Mixed, MixedOptions, Point};
pub use observer::Observer;
pub use options::{
    CompileOptions, PrecisionMap, PrecisionOptions, RewriteFile, TargetChoice, TimingMode, TimingOptions, WeightsChoice,
};
pub use parts::{AttrPart, KernelPart, OpPart, Parts, PassPart, PipelineEntry};
pub use passes::calibration::{Calibration, ClipMethod, Histogram, TensorStats};
pub use passes::quantize::{ActivationScales, Format};
pub use passes::{PassOptions, Slot};
pub use plan::{
    Buffer, DType, FORMAT_VERSION, Plan, PlanFile, Profile, Program, Step, WEIGHT_ALIGN, dump as dump_plan,
};
pub use precision::PRECISION_FILE;
pub use progress::{Progress, Quiet};
pub use report::{CompileReport, DeviceMemory, PassTime, Unit};
pub use requests::Requests;
pub use runtime::cpu::{instruction_set as cpu_instruction_set, read_bandwidth as cpu_read_bandwidth};
pub use runtime::cuda::{Clocks as DeviceClocks, Monitor as DeviceMonitor, Range as ClockRange, probe as cuda_driver};
pub use service::{Answers, Service, ServiceSettings, Submission};
pub use source::Source;

/// The stages of a [`Compilation`].
pub mod stages {
    pub use codegen::{Lowered, Selected, Selection};

    pub use crate::compilation::{Built, Imported, Optimized, Resolved};
}

/// The contents of a plan and the predicted cost of its launches, for tools.
pub mod plans {
    pub use ::plan::{
        Arg, Arithmetic, Bound, Code, Cost, Dim, Estimate, FORMAT_VERSION, Input, Kernel, KvGroup, Launch, Layout,
        Limits, Machine, Model, Param, Port, ProgramKind, Scalar, Symbol, SymbolDecl, SymbolValues, TextFile, Weight,
        WeightData, Work, claims, clipped, context, float_text, full_step, input, mapped, partial, step_cost, terminal,
        upper_bounds,
    };
}

/// Types for passes, ops and kernels of one's own.
pub mod extend {
    pub use codegen::cuda::Header;
    pub use codegen::{About, Body, Call, DeviceCall, Kernel, KvUse, Refusal, Site, c_float, c_type};
    pub use ir::{self, op};
    pub use passes::{Changed, Numerics, Pass, PassContext, PassError, PassOptions, Pipeline, rewrite_pass};
    pub use plan::{Dim, Layout, TensorMap};
    pub use runtime::cpu::{Args, ByRows, CpuKernel, KvLayer, RowArgs, RowKernel, Tensor};
}

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
