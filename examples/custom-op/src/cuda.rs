//! The kernel for NVIDIA GPUs: when the body in `kernels/soft_clip.cuh` supports an op, with which instance and grid.

use smelt::extend::{About, Body, Call, Header, Kernel, Refusal, Site, c_float, c_type};

use crate::SoftClip;

const FILE: Header =
    Header { path: "examples/custom-op/kernels/soft_clip.cuh", text: include_str!("../kernels/soft_clip.cuh") };

/// Threads per block, and elements per thread, as in the file.
const THREADS: u32 = 256;
const ELEMENTS: u64 = 8;

/// `soft_clip` of values of any floating-point dtype.
#[derive(Clone, Copy, Debug)]
pub struct OnGpu;

impl Kernel for OnGpu {
    fn name(&self) -> &'static str {
        "soft_clip"
    }

    fn about(&self) -> About {
        About { ops: &["soft_clip"], file: FILE.path }
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        let op = site.cast::<SoftClip>()?;
        let (rows, cols) = (site.row_count()?, site.width()?);
        let ty = c_type(site.result_type()?.dtype);
        let instance = format!("custom::SoftClip<{ty}, {cols}, {}>", c_float(op.limit));
        let grid = (rows.clone() * cols.into()).ceil_div(ELEMENTS * u64::from(THREADS));
        Body::own("soft_clip", FILE, instance, THREADS, grid).scalar("rows", rows).call(site)
    }
}
