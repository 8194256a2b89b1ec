//! smelt with a pass of one's own.

mod pass;

pub use pass::NewPass;

use smelt::{Driver, Slot};

/// smelt with the pass, before smelt's own fusions.
pub fn driver() -> Driver {
    Driver::new().pass(Slot::BeforeFusion, NewPass)
}
