//! Kernel timings of a compilation: the file that keeps them, and measuring what it lacks.

mod cache;
mod session;

pub(crate) use session::known;
