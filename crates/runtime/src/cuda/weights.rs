//! A plan's weights on the device: stored ones are copied from the mapped file through pinned memory, random ones are
//! generated on the device.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plan::devices::sm90;
use plan::{CHUNK_BYTES, ExecError, Layout, PlanError, PlanFile, RandomPart, Scalar, Tiles, Weight, WeightData};

use super::driver::{Context, Function, Memory, Pinned, Stream};
use super::failure::Failure;
use super::launch::check_params;

/// Threads that verify and copy chunks: each reads at some 2 GB/s, and a PCIe 5 link has 50.
const UPLOAD_THREADS: usize = 8;
/// Blocks of a fill: several per multiprocessor, in a grid-stride loop.
const FILL_BLOCKS: u32 = 8 * sm90::MULTIPROCESSORS;

/// Size of the parameters of a fill: out, seed, mean, std, first element, elements, rows, columns.
const FILL_PARAM_BYTES: [usize; 8] = [8, 8, 4, 4, 8, 8, 8, 8];

/// The weights of a plan.
pub(super) struct Weights {
    /// The address of each weight.
    pub addresses: Vec<u64>,
    _memory: Vec<Memory>,
}

impl Weights {
    /// Loads all weights onto the device. `functions` are those of the plan's kernels.
    pub fn load(
        context: &Arc<Context>,
        stream: &Stream,
        file: &PlanFile,
        functions: &[Function],
    ) -> Result<Weights, ExecError> {
        let failed = |failure: Failure| failure.at("weights").device();
        let plan = file.plan();
        let stored = Memory::new(context, file.weights().len() as u64).map_err(failed)?;
        upload(context, file, stored.address)?;
        // each chunk was read twice, to verify and to copy it
        file.check_contents()?;
        let mut addresses = Vec::new();
        let mut memory = Vec::new();
        let fills = fill_kernels(plan);
        for weight in &plan.weights {
            match &weight.data {
                WeightData::Stored { offset } => addresses.push(stored.address + offset),
                WeightData::Random(parts) => {
                    let bytes = weight.bytes().unwrap_or(0);
                    let place = Memory::new(context, bytes).map_err(failed)?;
                    let fill = fills.get(&(weight.dtype.name(), weight.layout.name()));
                    let fill = fill.and_then(|index| functions.get(*index));
                    let fill = fill.ok_or_else(|| {
                        ExecError::Unsupported(format!(
                            "the plan has no kernel that generates weight `{}`",
                            weight.name
                        ))
                    })?;
                    check_params(&fill.param_bytes, &FILL_PARAM_BYTES).map_err(|reason| {
                        PlanError::corrupt(file.path(), format_args!("kernel `{}`: {reason}", fill.name))
                    })?;
                    fill_random(stream, fill, weight, parts, place.address)
                        .map_err(|failure| failure.at(&format!("weight `{}`", weight.name)).device())?;
                    addresses.push(place.address);
                    memory.push(place);
                }
            }
        }
        stream.synchronize().map_err(failed)?;
        memory.push(stored);
        Ok(Weights { addresses, _memory: memory })
    }
}

/// The kernels of a plan that generate random weights, by dtype and layout.
fn fill_kernels(plan: &plan::Plan) -> BTreeMap<(&str, &str), usize> {
    fn text<'a>(kernel: &'a plan::Kernel, name: &str) -> Option<&'a str> {
        match kernel.param(name) {
            Some(Scalar::Text(text)) => Some(text),
            _ => None,
        }
    }
    let fills = plan.kernels.iter().enumerate().filter(|(_, kernel)| kernel.name == "fill_random");
    fills.filter_map(|(index, kernel)| Some(((text(kernel, "dtype")?, text(kernel, "layout")?), index))).collect()
}

/// Verifies and copies the chunks of the weight section, on several threads.
fn upload(context: &Arc<Context>, file: &PlanFile, target: u64) -> Result<(), ExecError> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<(), ExecError> {
        let failed = |failure: Failure| failure.at("weights").device();
        context.make_current().map_err(failed)?;
        let stream = Stream::new(context).map_err(failed)?;
        let mut pinned = Pinned::new(context, CHUNK_BYTES).map_err(failed)?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= file.chunk_count() {
                return Ok(());
            }
            file.verify_chunk(index)?;
            let start = index * CHUNK_BYTES;
            let chunk = &file.weights()[start..file.weights().len().min(start + CHUNK_BYTES)];
            let place = pinned.part(0..chunk.len());
            place.copy_from_slice(chunk);
            // SAFETY: the target has the size of the section; the chunk stays until the stream is done.
            unsafe { stream.upload(target + start as u64, place) }.map_err(failed)?;
            stream.synchronize().map_err(failed)?;
        }
    };
    let threads = UPLOAD_THREADS.min(file.chunk_count());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err(ExecError::NoDevice("weights: a copying thread has panicked".to_owned())),
        })
    })
}

/// Launches the fill of each part. Its parameters: out, seed, mean, std, first element, elements, rows, columns.
fn fill_random(
    stream: &Stream,
    fill: &Function,
    weight: &Weight,
    parts: &[RandomPart],
    address: u64,
) -> Result<(), Failure> {
    let cols = weight.shape.last().copied().unwrap_or(1);
    let rows = weight.elements().unwrap_or(0) / cols.max(1);
    if weight.layout != Layout::RowMajor {
        // SAFETY: the memory has the weight's size.
        unsafe { stream.fill(address, Tiles::padding(weight.dtype), weight.bytes().unwrap_or(0)) }?;
    }
    let mut first = 0u64;
    for part in parts {
        let (mut out, mut part, mut start, mut rows, mut cols) = (address, part.clone(), first, rows, cols);
        let mut params: [*mut c_void; 8] = [
            (&raw mut out).cast(),
            (&raw mut part.seed).cast(),
            (&raw mut part.mean).cast(),
            (&raw mut part.std).cast(),
            (&raw mut start).cast(),
            (&raw mut part.elements).cast(),
            (&raw mut rows).cast(),
            (&raw mut cols).cast(),
        ];
        // SAFETY: the parameters are those of `fill_random`; the parts add up to the weight's elements.
        unsafe { fill.launch(stream, FILL_BLOCKS, &mut params, false) }?;
        first += part.elements;
    }
    Ok(())
}
