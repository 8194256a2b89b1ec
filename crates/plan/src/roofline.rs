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
    /// FLOP/s of 16-bit matrix products.
    pub flops_per_second: f64,
    /// FLOP/s of products of two 8-bit matrices.
    pub byte_flops_per_second: f64,
    /// FLOP/s of f32.
    pub f32_flops_per_second: f64,
    /// Launch overhead.
    pub launch_seconds: f64,
    /// Memory in bytes, as the driver reports it; `None` where machines differ.
    pub memory_bytes: Option<u64>,
}

/// The arithmetic of a launch, which decides its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Elementwise, in f32.
    Single,
    /// Products of 16-bit matrices, also with one operand that is widened to 16 bits.
    Matrices,
    /// Products of two 8-bit matrices.
    ByteMatrices,
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
        byte_flops_per_second: 1979e12,
        f32_flops_per_second: 67e12,
        launch_seconds: 1e-6,
        memory_bytes: Some(143_771 << 20),
    };
    /// NVIDIA H100 SXM: the same chip with slower memory.
    pub const H100: Machine = Machine {
        name: "h100",
        title: "NVIDIA H100 SXM",
        bytes_per_second: 3.35e12,
        memory_bytes: Some(81_559 << 20),
        ..Machine::H200
    };
    /// Two cores of a server CPU with AVX2: the memory rate of `bench/cpu.json`, 32 operations per cycle at 3 GHz. A
    /// model that fits in caches is faster.
    pub const CPU: Machine = Machine {
        name: "cpu",
        title: "two cores of a server CPU with AVX2",
        bytes_per_second: 37e9,
        flops_per_second: 192e9,
        byte_flops_per_second: 192e9,
        f32_flops_per_second: 192e9,
        launch_seconds: 1e-6,
        memory_bytes: None,
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

    /// FLOP/s of an arithmetic.
    pub fn rate(&self, arithmetic: Arithmetic) -> f64 {
        match arithmetic {
            Arithmetic::Single => self.f32_flops_per_second,
            Arithmetic::Matrices => self.flops_per_second,
            Arithmetic::ByteMatrices => self.byte_flops_per_second,
        }
    }

    /// A lower bound for this much work.
    pub fn estimate(&self, cost: Cost, arithmetic: Arithmetic) -> Estimate {
        let memory = cost.bytes() as f64 / self.bytes_per_second;
        let compute = cost.flops as f64 / self.rate(arithmetic);
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
        let estimate =
            |launch: &Launch| Ok(self.estimate(launch.work.eval(values)?, Arithmetic::of(plan, program, launch)));
        launches.map(estimate).collect()
    }
}

impl Arithmetic {
    /// That of a launch of a program. Matrices are narrow weights, or keys and values.
    pub fn of(plan: &Plan, program: &Program, launch: &Launch) -> Arithmetic {
        let narrow = |dtype: DType| dtype != DType::F32 && dtype != DType::I32;
        let is_byte = |dtype: DType| matches!(dtype, DType::I8 | DType::F8E4M3);
        let weights = launch.inputs.iter().filter_map(|arg| match *arg {
            Arg::Weight(index) => plan.weights.get(index as usize).filter(|weight| weight.shape.len() == 2),
            _ => None,
        });
        let weight = weights.map(|weight| weight.dtype).find(|dtype| narrow(*dtype));
        let codes = |wanted: DType| {
            let dtype = |arg: &Arg| match *arg {
                Arg::Buffer(index) => program.buffers.get(index as usize).map(|buffer| buffer.dtype),
                _ => None,
            };
            launch.inputs.iter().filter_map(dtype).any(|dtype| dtype == wanted)
        };
        let attends = launch.inputs.iter().any(|arg| match *arg {
            Arg::Kv { group, .. } => plan.kv.get(group as usize).is_some_and(|group| narrow(group.dtype)),
            _ => false,
        });
        match weight {
            Some(dtype) if is_byte(dtype) && codes(dtype) => Arithmetic::ByteMatrices,
            Some(_) => Arithmetic::Matrices,
            None if attends => Arithmetic::Matrices,
            None => Arithmetic::Single,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_both_bounds_a_launch() {
        let cost = |flops, read| Cost { flops, read, written: 0 };
        for (work, arithmetic, bound, microseconds) in [
            (cost(1_000, 48_000_000), Arithmetic::Matrices, Bound::Memory, 11.0),
            (cost(9_890_000_000, 48), Arithmetic::Matrices, Bound::Compute, 11.0),
            (cost(19_790_000_000, 48), Arithmetic::ByteMatrices, Bound::Compute, 11.0),
            (cost(670_000_000, 48), Arithmetic::Single, Bound::Compute, 11.0),
            (cost(0, 0), Arithmetic::Single, Bound::Launch, 1.0),
            (cost(u64::MAX, u64::MAX), Arithmetic::Single, Bound::Memory, 3_843_072_100_000.0),
        ] {
            let estimate = Machine::H200.estimate(work, arithmetic);
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
