//! smelt with a rewrite and an analysis of its own.

mod count_flops;
mod gather_early;

pub use count_flops::{CountFlops, Flops};
pub use gather_early::GatherEarly;

use smelt::{Driver, Slot};

/// smelt with both passes; `flops` keeps the result of the analysis.
pub fn driver(flops: &CountFlops) -> Driver {
    Driver::new()
        .pass(Slot::BeforeFusion, GatherEarly) // smelt's own pass then finds nothing to move
        .pass(Slot::BeforeFusion, flops.clone()) // after it: counts what is left, one linear at a time
}
