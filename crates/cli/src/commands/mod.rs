//! The subcommands, one a file.

pub mod bench;
pub mod build;
pub mod compile;
pub mod completions;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod list;
mod memory;
pub mod opt;
pub mod plan;
