//! Addresses and sizes of a session's tensors: weights in the file or in memory of their own, buffers at the sizes of a
//! step.

use std::collections::BTreeMap;

use plan::{Buffer, Layout, Plan, PlanFile, Program, SymbolValues, WEIGHT_ALIGN, Weight, WeightData};

use super::Tensor;
use super::memory::{Memory, available};

/// The weights of a plan. Random ones share one allocation.
pub(super) struct Weights {
    random: Memory,
    /// Offset of random weights in it.
    offsets: Vec<u64>,
}

impl Weights {
    /// Refuses layouts that no CPU kernel reads.
    pub fn check(plan: &Plan) -> Result<(), String> {
        let read = |weight: &&Weight| matches!(weight.layout, Layout::RowMajor | Layout::Packed);
        match plan.weights.iter().find(|weight| !read(weight)) {
            None => Ok(()),
            Some(Weight { name, layout, .. }) => {
                Err(format!("weight `{name}` is {}, expected row_major or packed on a CPU", layout.name()))
            }
        }
    }

    /// Generates the random ones, if there is enough memory.
    pub fn make(plan: &Plan) -> Result<Weights, String> {
        let mut bytes = 0u64;
        let mut place = |weight: &Weight| {
            let offset = bytes;
            if let WeightData::Random(_) = &weight.data {
                let own = weight.bytes().unwrap_or(u64::MAX).saturating_add(WEIGHT_ALIGN - 1);
                bytes = bytes.saturating_add(own / WEIGHT_ALIGN * WEIGHT_ALIGN);
            }
            offset
        };
        let offsets: Vec<u64> = plan.weights.iter().map(&mut place).collect();
        if let Some(free) = available().filter(|free| bytes > *free) {
            return Err(format!(
                "the random weights of the plan take {bytes} bytes, this machine has {free} available"
            ));
        }
        let mut random = Memory::zeroed(bytes)?;
        for (weight, offset) in plan.weights.iter().zip(&offsets) {
            if let WeightData::Random(parts) = &weight.data {
                random.fill_random(*offset, weight.dtype, weight.layout, parts);
            }
        }
        Ok(Weights { random, offsets })
    }

    /// A weight as kernels see it.
    pub fn tensor(&mut self, file: &PlanFile, index: usize) -> Result<Tensor, String> {
        let weight = &file.plan().weights[index];
        let bytes = weight.bytes().ok_or_else(|| format!("weight `{}` has no size", weight.name))?;
        let mut shape: Vec<usize> = weight.shape.iter().map(|size| *size as usize).collect();
        if let (Layout::Packed, Some(width)) = (weight.layout, shape.last_mut()) {
            // an element is a byte with two values
            *width /= 2;
        }
        let data = match &weight.data {
            WeightData::Stored { offset } => file.stored(*offset, bytes).as_ptr().cast_mut(),
            WeightData::Random(_) => self.random.part(self.offsets[index], bytes).as_mut_ptr(),
        };
        // SAFETY: a part of the file or of the allocation, of this size, both of which live as long as the session.
        // Nothing writes to weights.
        let tensor = unsafe { Tensor::new(weight.dtype, shape, data, bytes) };
        let tensor = tensor.map_err(|reason| format!("weight `{}`: {reason}", weight.name))?;
        Ok(if weight.layout == Layout::Packed { tensor.packed() } else { tensor })
    }
}

/// A program's buffers at the sizes of a step: evaluated once, since many launches use the same.
pub(super) struct Sizes {
    pub symbols: SymbolValues,
    shapes: Vec<Vec<usize>>,
    bounds: BTreeMap<u32, u64>,
}

impl Sizes {
    pub fn of(plan: &Plan, program: &Program, symbols: &SymbolValues) -> Result<Sizes, String> {
        let shapes = program.buffers.iter().map(|buffer| shape(buffer, symbols));
        let bound = |port: &plan::Port| Some((port.buffer, plan.input_bound(&port.name, symbols)?));
        Ok(Sizes {
            symbols: symbols.clone(),
            shapes: shapes.collect::<Result<_, _>>()?,
            bounds: program.inputs.iter().filter_map(bound).collect(),
        })
    }

    /// The shape of a buffer.
    pub fn shape(&self, buffer: u32) -> &[usize] {
        &self.shapes[buffer as usize]
    }

    /// Upper bound (exclusive) of a buffer's integers, if its name implies one.
    pub fn bound(&self, buffer: u32) -> Option<u64> {
        self.bounds.get(&buffer).copied()
    }
}

/// The shape of a buffer at the sizes of a step.
pub(super) fn shape(buffer: &Buffer, symbols: &SymbolValues) -> Result<Vec<usize>, String> {
    let sizes = buffer.shape.iter().map(|dim| dim.eval(symbols).map(|size| size as usize));
    sizes.collect::<Result<_, _>>().map_err(|error| error.to_string())
}
