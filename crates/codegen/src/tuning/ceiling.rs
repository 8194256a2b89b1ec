//! What a device does at most: how fast a kernel that does nothing else reads its memory, and what a launch takes at
//! its best.

use std::time::Duration;

use plan::{
    Arg, Buffer, DType, Dim, ExecError, Executor, Launch, Layout, Plan, Port, PortData, Program, ProgramKind,
    RandomPart, Step, Weight, WeightData, Work,
};

use super::clock::{self, Clock};
use super::measurable::Measurable;
use super::trial::{Trial, empty_plan};
use crate::cuda::Compiler;
use crate::kernels::cuda::{READ_TILE_BYTES, fill_random, stream_read};
use crate::{Catalog, CodegenError, Site};

/// Reads of the longer program, besides the first.
const MORE_READS: u32 = 8;

/// Bytes per second at which a GPU reads this many bytes of its memory, rounded down to whole tiles, and how many these
/// are: the best of a few repetitions. An error where some of what was read is not what lies there.
pub fn read_rate(executor: &dyn Executor, compiler: &Compiler, bytes: u64) -> Result<(f64, u64), CodegenError> {
    let failed = |error| CodegenError::Timing { op: "a streaming read".to_owned(), error: Box::new(error) };
    let tiles = (bytes / READ_TILE_BYTES).clamp(1, u64::from(u32::MAX >> 1));
    let mut plan = reads(executor.target(), tiles);
    clock::compile(&mut plan, compiler)?;
    let mut clock = Clock::start(&plan, &[], executor).map_err(failed)?;
    let time = clock.best(MORE_READS).map_err(failed)?;
    let bytes = tiles * READ_TILE_BYTES;
    match clock.read("sums").map_err(failed)? {
        PortData::I32(sums) if agree(&sums, &plan.weights[0]) => Ok((bytes as f64 / time.as_secs_f64(), bytes)),
        _ => Err(failed(ExecError::Unsupported("its sums are not those of the memory".to_owned()))),
    }
}

/// A plan whose programs read one weight, once and [`MORE_READS`] times more.
fn reads(target: &str, tiles: u64) -> Plan {
    let columns = READ_TILE_BYTES / DType::F32.bytes();
    let weight = Weight {
        name: "words".to_owned(),
        dtype: DType::F32,
        shape: vec![tiles, columns],
        layout: Layout::RowMajor,
        data: WeightData::Random(vec![RandomPart::named("words", tiles * columns, 0.0, 1.0)]),
    };
    let launch = Launch {
        kernel: 0,
        site: "sums".to_owned(),
        inputs: vec![Arg::Weight(0)],
        outputs: vec![Arg::Buffer(0)],
        maps: Vec::new(),
        scalars: Vec::new(),
        grid: Dim::from(tiles),
        ir: String::new(),
        work: Work { flops: 0.into(), read: (tiles * READ_TILE_BYTES).into(), written: (4 * tiles).into() },
    };
    let program = |name: &str, launches: u32| {
        let (bytes, live) = (tiles * DType::I32.bytes(), (0, launches));
        let shape = vec![Dim::from(tiles)];
        Program {
            name: name.to_owned(),
            kind: ProgramKind::Decode,
            symbols: Vec::new(),
            buffers: vec![Buffer { name: "sums".to_owned(), dtype: DType::I32, shape, offset: 0, bytes, live }],
            arena_bytes: bytes,
            inputs: Vec::new(),
            outputs: vec![Port { name: "sums".to_owned(), buffer: 0 }],
            steps: vec![Step::Launch(launch.clone()); launches as usize],
        }
    };
    Plan {
        kernels: vec![stream_read(), fill_random(weight.dtype, weight.layout)],
        weights: vec![weight],
        programs: vec![program("once", 1), program("often", 1 + MORE_READS)],
        ..empty_plan(target)
    }
}

/// Whether the sums of the first and of the last tile are those of the weight's values.
fn agree(sums: &[i32], weight: &Weight) -> bool {
    let WeightData::Random(parts) = &weight.data else { return false };
    let columns = READ_TILE_BYTES / DType::F32.bytes();
    let expected = |tile: u64| {
        let values = (tile * columns..(tile + 1) * columns).map(|index| parts[0].value(index).to_bits());
        values.fold(0, u32::wrapping_add) as i32
    };
    let tiles = weight.shape[0];
    sums.len() as u64 == tiles && [0, tiles - 1].into_iter().all(|tile| sums[tile as usize] == expected(tile))
}

impl Measurable<'_> {
    /// What a launch of the first candidate takes at its best, the longer program of which has `more` launches.
    pub fn best(
        &self,
        catalog: &Catalog,
        executor: &dyn Executor,
        compiler: Option<&Compiler>,
        more: u32,
    ) -> Result<Duration, CodegenError> {
        let failed = |error| CodegenError::Timing { op: self.op().to_owned(), error: Box::new(error) };
        let site = Site { graph: self.graph, op: self.id, program: self.program };
        let first: Vec<_> = self.candidates.list.iter().take(1).collect();
        let trial = Trial::new(&site, &first, (catalog, executor.target()), more);
        let mut trial = trial.map_err(|reason| failed(ExecError::Unsupported(reason)))?;
        if let Some(compiler) = compiler {
            clock::compile(&mut trial.plan, compiler)?;
        }
        let mut clock = Clock::start(&trial.plan, &trial.inputs, executor).map_err(failed)?;
        clock.best(more).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_that_reads_is_sound() {
        let mut plan = reads("sm_90a", 65_536);
        // machine code has a check of its own
        plan.kernels.iter_mut().for_each(|kernel| kernel.code = None);
        plan.target = "cpu".to_owned();
        plan::check(&plan, 0).unwrap();
        assert_eq!(plan.weights[0].bytes(), Some(8 << 30));
    }

    #[test]
    fn sums_are_held_against_the_memory() {
        let plan = reads("sm_90a", 3);
        let weight = &plan.weights[0];
        let WeightData::Random(parts) = &weight.data else { panic!("random") };
        let words: Vec<u32> = (0..parts[0].elements).map(|index| parts[0].value(index).to_bits()).collect();
        let tiles = words.chunks((READ_TILE_BYTES / 4) as usize);
        let sums: Vec<i32> =
            tiles.map(|words| words.iter().fold(0, |sum: u32, word| sum.wrapping_add(*word)) as i32).collect();
        assert!(agree(&sums, weight));
        assert!(!agree(&sums[..2], weight));
        assert!(!agree(&[sums[0], sums[1], sums[2] + 1], weight));
    }
}
