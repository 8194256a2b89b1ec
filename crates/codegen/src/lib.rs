//! From verified graphs to plans: selects kernels, plans memory, compiles CUDA C, turns weights into recipes and writes
//! them.

mod buffers;
mod catalog;
mod cost;
pub mod cuda;
mod kernels;
mod lower;
mod mapped;
mod memory;
mod program;
mod recipe;
mod select;
mod site;
mod target;
mod tuning;

pub use catalog::{About, Call, Catalog, DeviceCall, Kernel, KvUse, Refusal, Site};
pub use kernels::cuda::{Body, c_float, c_type};
pub use lower::{CodegenError, Lowered, PlanSpec, Selected};
pub use mapped::Mapped;
pub use memory::{Placement, Request, place};
pub use program::ProgramShape;
pub use recipe::{Recipe, WriteError};
pub use select::{Candidate, Choice, Chosen, Selection, select};
pub use target::{Target, UnknownTarget};
pub use tuning::{Outcome, Timed, Timings, Untimed, chosen, read_rate, untimed};
