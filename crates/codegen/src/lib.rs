//! From verified graphs to plans: selects kernels, plans memory, compiles CUDA C, turns weights into recipes and writes
//! them.

mod catalog;
mod cost;
pub mod cuda;
mod error;
mod kernel;
mod kernels;
mod lower;
mod memory;
mod program;
mod recipe;
mod select;
mod target;
mod tuning;

pub use catalog::Catalog;
pub use error::CodegenError;
pub use kernel::{About, Call, DeviceCall, Kernel, KvUse, Refusal, Site};
pub use kernels::cuda::{Body, c_float, c_type};
pub use lower::{Lowered, PlanSpec, Selected};
pub use memory::{Placement, Request, place};
pub use program::ProgramShape;
pub use recipe::{Mapped, Recipe, WriteError};
pub use select::{Candidate, Choice, Chosen, Selection, select};
pub use target::{Target, UnknownTarget};
pub use tuning::{Measurable, Outcome, Timed, Timings, chosen, read_rate, untimed};
