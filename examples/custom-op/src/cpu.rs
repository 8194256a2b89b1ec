//! The kernel for CPUs: supported ops, and its code.

use smelt::DType;
use smelt::extend::{About, Args, Call, Kernel, Refusal, RowArgs, RowKernel, Site};

use crate::SoftClip;

/// `soft_clip` of f32 values, in f32.
#[derive(Clone, Copy, Debug)]
pub struct OnCpu;

impl Kernel for OnCpu {
    fn name(&self) -> &'static str {
        "soft_clip"
    }

    fn about(&self) -> About {
        About { ops: &["soft_clip"], file: "examples/custom-op/src/cpu.rs" }
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        let op = site.cast::<SoftClip>()?;
        match site.result_type()?.dtype {
            DType::F32 => Ok(site.by_rows()?.float("limit", op.limit)),
            dtype => Err(Refusal::because(format!("it requires f32 values, found {dtype}"))),
        }
    }
}

impl RowKernel for OnCpu {
    fn name(&self) -> &'static str {
        "soft_clip"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(1, 1)?;
        args.inputs[0].expect_shape(DType::F32, args.outputs[0].shape())?;
        args.float("limit").map(drop)
    }

    fn row(&self, args: &RowArgs<'_>, row: usize, out: &mut [f32]) -> Result<(), String> {
        let limit = args.float("limit")?;
        for (out, x) in out.iter_mut().zip(args.inputs[0].row(row)?) {
            *out = limit * (x / limit).tanh();
        }
        Ok(())
    }
}
