//! The buffers of a program under construction: sizes, lifetimes, and finally offsets.

use std::collections::HashMap;

use ir::{Graph, Value};
use plan::{Arg, Buffer, Dim, Port, SymbolValues, WEIGHT_ALIGN};

use super::{Request, place};
use crate::{CodegenError, ProgramShape};

/// The buffers of one program under construction.
pub(crate) struct Buffers<'a> {
    graph: &'a Graph,
    shape: &'a ProgramShape,
    bounds: SymbolValues,
    buffers: Vec<Buffer>,
    index: HashMap<Value, u32>,
}

impl<'a> Buffers<'a> {
    pub fn new(graph: &'a Graph, shape: &'a ProgramShape) -> Buffers<'a> {
        let bounds = shape.bounds();
        Buffers { graph, shape, bounds, buffers: Vec::new(), index: HashMap::new() }
    }

    /// A buffer for a value that this step computes.
    pub fn define(&mut self, value: Value, step: u32) -> Result<Arg, CodegenError> {
        let name = self.graph.value_name(value).to_owned();
        let ty = self.graph.tensor(value).ok_or_else(|| CodegenError::Graph(format!("`%{name}` is not a tensor")))?;
        let shape: Vec<Dim> = ty.shape.iter().map(|dim| self.shape.dim(dim)).collect();
        let bytes = shape.iter().try_fold(ty.dtype.bytes(), |bytes, dim| {
            let size = dim.eval(&self.bounds).map_err(|error| error.to_string())?;
            bytes.checked_mul(size).ok_or_else(|| "its size overflows".to_owned())
        });
        let bytes = bytes.map_err(|reason| CodegenError::Graph(format!("`%{name}`: {reason}")))?;
        let index = self.buffers.len() as u32;
        self.buffers.push(Buffer { name, dtype: ty.dtype, shape, offset: 0, bytes, live: (step, step) });
        self.index.insert(value, index);
        Ok(Arg::Buffer(index))
    }

    /// The buffer of a value that this step reads.
    pub fn read(&mut self, value: Value, step: u32) -> Result<u32, CodegenError> {
        let name = self.graph.value_name(value);
        let index = self.index.get(&value).ok_or_else(|| CodegenError::Graph(format!("`%{name}` has no buffer")))?;
        let live = &mut self.buffers[*index as usize].live;
        live.1 = live.1.max(step);
        Ok(*index)
    }

    pub fn port(&mut self, name: &str, value: Value, last_step: usize) -> Result<Port, CodegenError> {
        if self.graph.is_constant(value) {
            return Err(CodegenError::Graph(format!(
                "output `{name}` is a constant, not a value that a step computes"
            )));
        }
        Ok(Port { name: name.to_owned(), buffer: self.read(value, last_step as u32)? })
    }

    pub fn place(mut self) -> (Vec<Buffer>, u64) {
        let requests = self.buffers.iter().map(|buffer| Request { bytes: buffer.bytes, live: buffer.live });
        let placement = place(&requests.collect::<Vec<_>>(), WEIGHT_ALIGN);
        for (buffer, offset) in self.buffers.iter_mut().zip(placement.offsets) {
            buffer.offset = offset;
        }
        (self.buffers, placement.bytes)
    }
}
