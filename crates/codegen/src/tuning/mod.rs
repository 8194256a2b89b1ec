//! Autotuning: the candidates for an op, their timings, and the plans that time them. The executor is passed in;
//! nothing here knows a device.

mod candidates;
mod ceiling;
mod clock;
mod measurable;
mod timings;
mod trial;

pub(crate) use candidates::{Candidates, CodeHashes};
pub use ceiling::read_rate;
pub use measurable::{Measurable, chosen, untimed};
pub(crate) use timings::print_timed;
pub use timings::{Outcome, Timed, Timings};
