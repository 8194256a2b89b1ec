//! Verified graphs to plans: kernels are chosen, buffers placed, weights turned into recipes and written.

mod catalog;
mod kernels;
mod lower;
mod memory;
pub mod nvrtc;
mod recipe;
mod select;
mod target;

pub use catalog::{Call, Catalog, Kernel, KvUse, Refusal};
pub use lower::{CodegenError, Lowered, PlanSpec, lower};
pub use memory::{Placement, Request, place};
pub use recipe::Recipe;
pub use select::{Candidate, Choice, Selection, select};
pub use target::{Target, UnknownTarget};
