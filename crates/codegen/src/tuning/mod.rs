//! Autotuning: the candidates for an op, their timings, and the plans that time them. The executor is passed in;
//! nothing here knows a device.

mod candidates;
mod ceiling;
mod clock;
mod timings;
mod trial;
mod untimed;

pub(crate) use candidates::{Candidates, Codes};
pub use ceiling::read_rate;
pub(crate) use timings::print_timed;
pub use timings::{Outcome, Timed, Timings};
pub use untimed::{Untimed, chosen, untimed};
