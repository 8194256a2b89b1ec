//! The subcommands, one per file.

pub mod bench;
pub mod build;
pub mod calibrate;
pub mod compile;
pub mod completions;
pub mod debug;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod inspect;
pub mod list;
pub mod man;
mod memory;
mod mixed;
pub mod new_pass;
pub mod opt;
pub mod plan;
mod profile_file;
pub mod quantize;
mod trtllm;
