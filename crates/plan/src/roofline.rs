//! The roofline of a machine: a lower bound on the time of a launch, from bytes and arithmetic alone. A bound to
//! compare measured times with, not a simulation: occupancy, caches and waves of blocks are not in it.

use crate::{Arg, Cost, DType, Launch, Plan, Program, Step, SymbolValues};

/// The rates of a machine that bound a launch. Sources are named in docs/book/inspect.md.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Memory bandwidth in bytes per second.
    pub bytes_per_second: f64,
    /// FLOP/s of 16-bit matrix products; twice as many if both operands are 8-bit.
    pub flops_per_second: f64,
    /// FLOP/s of f32.
    pub f32_flops_per_second: f64,
    /// Launch overhead.
    pub launch_seconds: f64,
}

/// A lower bound on the time of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Its work.
    pub cost: Cost,
    /// The bound in seconds.
    pub seconds: f64,
    /// The limiting resource.
    pub bound: Bound,
}

/// The resource that limits a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Memory bandwidth.
    Memory,
    /// Arithmetic.
    Compute,
    /// Launch overhead: its work takes less than that.
    Launch,
}

impl Bound {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Compute => "compute",
            Bound::Launch => "launch",
        }
    }
}

impl Machine {
    /// NVIDIA H200 SXM.
    pub const H200: Machine = Machine {
        name: "h200",
        title: "NVIDIA H200 SXM",
        bytes_per_second: 4.8e12,
        flops_per_second: 989e12,
        f32_flops_per_second: 67e12,
        launch_seconds: 1e-6,
    };
    /// NVIDIA H100 SXM: the same chip with slower memory.
    pub const H100: Machine =
        Machine { name: "h100", title: "NVIDIA H100 SXM", bytes_per_second: 3.35e12, ..Machine::H200 };
    /// Two cores of a server CPU with AVX2: the memory rate of `bench/cpu.json`, 32 operations per cycle at 3 GHz. A
    /// model that fits in caches is faster.
    pub const CPU: Machine = Machine {
        name: "cpu",
        title: "two cores of a server CPU with AVX2",
        bytes_per_second: 37e9,
        flops_per_second: 192e9,
        f32_flops_per_second: 192e9,
        launch_seconds: 1e-6,
    };
    /// All machines.
    pub const ALL: [Machine; 3] = [Machine::H200, Machine::H100, Machine::CPU];

    /// The machine of this name.
    pub fn find(name: &str) -> Option<Machine> {
        Machine::ALL.into_iter().find(|machine| machine.name == name)
    }

    /// The default machine of a target.
    pub fn of_target(target: &str) -> Machine {
        if target.starts_with("sm_") { Machine::H200 } else { Machine::CPU }
    }

    /// A lower bound for this much work; `matrices` of 16-bit elements are multiplied by tensor cores.
    pub fn estimate(&self, cost: Cost, matrices: bool) -> Estimate {
        let rate = if matrices { self.flops_per_second } else { self.f32_flops_per_second };
        let (memory, compute) = (cost.bytes() as f64 / self.bytes_per_second, cost.flops as f64 / rate);
        let work = memory.max(compute);
        let bound = match () {
            () if work < self.launch_seconds => Bound::Launch,
            () if compute > memory => Bound::Compute,
            () => Bound::Memory,
        };
        Estimate { cost, seconds: work + self.launch_seconds, bound }
    }

    /// A lower bound for each launch of a program, under `values` such as those of [`crate::full_step`].
    pub fn estimates(
        &self,
        plan: &Plan,
        program: &Program,
        values: &SymbolValues,
    ) -> Result<Vec<Estimate>, crate::DimError> {
        let launches = program.steps.iter().map(|Step::Launch(launch)| launch);
        launches.map(|launch| Ok(self.estimate(launch.work.eval(values)?, multiplies(plan, launch)))).collect()
    }
}

/// Whether a launch multiplies matrices of 16 bits or fewer: it reads such a weight, or such keys and values.
fn multiplies(plan: &Plan, launch: &Launch) -> bool {
    let narrow = |dtype: DType| dtype != DType::F32 && dtype != DType::I32;
    launch.inputs.iter().any(|arg| match *arg {
        Arg::Weight(index) => {
            plan.weights.get(index as usize).is_some_and(|weight| narrow(weight.dtype) && weight.shape.len() == 2)
        }
        Arg::Kv { group, .. } => plan.kv.get(group as usize).is_some_and(|group| narrow(group.dtype)),
        Arg::Buffer(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_both_bounds_a_launch() {
        let cost = |flops, read| Cost { flops, read, written: 0 };
        for (work, matrices, bound, microseconds) in [
            (cost(1_000, 48_000_000), true, Bound::Memory, 11.0),
            (cost(9_890_000_000, 48), true, Bound::Compute, 11.0),
            (cost(670_000_000, 48), false, Bound::Compute, 11.0),
            (cost(0, 0), false, Bound::Launch, 1.0),
            (cost(u64::MAX, u64::MAX), false, Bound::Memory, 3_843_072_100_000.0),
        ] {
            let estimate = Machine::H200.estimate(work, matrices);
            assert_eq!(estimate.bound, bound, "{work:?}");
            assert!((estimate.seconds * 1e6 / microseconds - 1.0).abs() < 1e-3, "{work:?}: {}", estimate.seconds);
        }
    }

    #[test]
    fn each_machine_is_found_by_its_name() {
        for machine in Machine::ALL {
            assert_eq!(Machine::find(machine.name), Some(machine));
        }
        assert_eq!(Machine::find("abacus"), None);
        assert_eq!((Machine::of_target("sm_90a").name, Machine::of_target("cpu").name), ("h200", "cpu"));
    }
}
