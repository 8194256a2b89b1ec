//! smelt with an op of its own: its semantics, a pass that inserts it into models, and its kernels for both targets.

mod cpu;
mod cuda;
mod op;
mod pass;

pub use cpu::OnCpu;
pub use cuda::OnGpu;
pub use op::SoftClip;
pub use pass::ClipLogits;

use smelt::extend::ByRows;
use smelt::{Driver, Slot};

/// smelt with all of them.
pub fn driver() -> Driver {
    Driver::new()
        .op::<SoftClip>()
        .pass(Slot::AfterImport, ClipLogits)
        .cpu_kernel(OnCpu, ByRows(OnCpu))
        .cuda_kernel(OnGpu)
}
