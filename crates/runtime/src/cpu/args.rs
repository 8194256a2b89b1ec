//! Arguments of a launch: tensors with checked dtypes, and parts of outputs to write.

use std::sync::Arc;

use plan::{DType, Kernel, Scalar};

/// The arguments of a launch.
pub struct Args {
    /// Input tensors.
    pub inputs: Vec<Tensor>,
    /// Output tensors.
    pub outputs: Vec<Tensor>,
    /// The KV cache layer that it accesses.
    pub kv: Option<KvLayer>,
    /// The kernel with its parameters.
    pub kernel: Arc<Kernel>,
}

/// The inputs of a launch: everything that a kernel sees except the outputs.
#[derive(Clone, Copy)]
pub struct RowArgs<'a> {
    /// Input tensors.
    pub inputs: &'a [Tensor],
    kernel: &'a Kernel,
}

/// A row-major tensor in memory that the session owns. It is lent for a launch and cannot be cloned: memory that a
/// launch reads is written by others.
#[derive(Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: *mut u8,
    packed: bool,
    below: Option<u64>,
}

// SAFETY: the memory lives as long as the session, whose launches run one after the other; within a launch, tasks
// read inputs and write disjoint parts of outputs (the contract of `CpuKernel`, and of `Tensor::write`).
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// A tensor in these bytes. The only place where a size that kernels see is checked against memory: an error if it
    /// does not fit.
    ///
    /// # Safety
    /// `data` must be valid for `bytes` bytes for as long as the tensor is used.
    pub(super) unsafe fn new(dtype: DType, shape: Vec<usize>, data: *mut u8, bytes: u64) -> Result<Tensor, String> {
        let size = shape.iter().try_fold(dtype.bytes(), |size, axis| size.checked_mul(*axis as u64));
        match size.is_some_and(|size| size <= bytes) && (data as u64).is_multiple_of(dtype.bytes()) {
            true => Ok(Tensor { dtype, shape, data, packed: false, below: None }),
            false => Err(format!("a tensor of {dtype} {shape:?} does not fit its {bytes} bytes")),
        }
    }

    /// The same tensor, with two 4-bit values per element.
    pub(super) fn packed(self) -> Tensor {
        Tensor { packed: true, ..self }
    }

    /// Whether each element is two 4-bit values.
    pub(super) fn is_packed(&self) -> bool {
        self.packed
    }

    /// The same tensor, whose integers are guaranteed to be below a number.
    pub(super) fn promised_below(self, below: Option<u64>) -> Tensor {
        Tensor { below, ..self }
    }

    /// Checks that no guaranteed integer is out of bounds. Others are checked when they are used.
    pub fn expect_below(&self, places: usize) -> Result<(), String> {
        match self.below {
            Some(below) if below > places as u64 => Err(format!("an index up to {} of {places}", below - 1)),
            _ => Ok(()),
        }
    }

    /// Type of an element.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The innermost size.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows of the innermost size.
    pub fn row_count(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// The elements of an f32 tensor.
    pub fn floats(&self) -> Result<&[f32], String> {
        self.expect(DType::F32)?;
        // SAFETY: `new` promised validity, the dtype is right.
        Ok(unsafe { self.elements() })
    }

    /// A row of an f32 tensor.
    pub fn row(&self, row: usize) -> Result<&[f32], String> {
        let range = row * self.width()..(row + 1) * self.width();
        self.floats()?.get(range).ok_or_else(|| format!("there is no row {row} of {}", self.row_count()))
    }

    /// The elements of an i32 tensor.
    pub fn ints(&self) -> Result<&[i32], String> {
        self.expect(DType::I32)?;
        // SAFETY: `new` promised validity, the dtype is right.
        Ok(unsafe { self.elements() })
    }

    /// The elements as a Rust type of the tensor's dtype.
    ///
    /// # Safety
    /// `E` must have the size and meaning of the dtype.
    pub(super) unsafe fn elements<E>(&self) -> &[E] {
        // SAFETY: `new` promised validity.
        unsafe { std::slice::from_raw_parts(self.data.cast::<E>(), self.len()) }
    }

    /// Elements of a floating-point or quantized tensor, widened to f32.
    pub fn widened(&self, range: std::ops::Range<usize>) -> Result<Vec<f32>, String> {
        let outside = || format!("elements {range:?} of a tensor of {}", self.len());
        // SAFETY: `new` promised validity, each arm has the right type.
        unsafe {
            match self.dtype {
                DType::F32 => Ok(self.elements::<f32>().get(range.clone()).ok_or_else(outside)?.to_vec()),
                DType::F16 => {
                    let values = self.elements::<half::f16>().get(range.clone()).ok_or_else(outside)?;
                    Ok(values.iter().map(|value| value.to_f32()).collect())
                }
                DType::BF16 => {
                    let values = self.elements::<half::bf16>().get(range.clone()).ok_or_else(outside)?;
                    Ok(values.iter().map(|value| value.to_f32()).collect())
                }
                DType::I32 => Err("expected a floating-point tensor, found i32".to_owned()),
                dtype => Ok(dtype.decode(self.elements::<u8>().get(range.clone()).ok_or_else(outside)?)),
            }
        }
    }

    /// A part of an output to write.
    ///
    /// # Safety
    /// No other task of the launch may touch these elements, and `E` must be of the dtype.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn write<E>(&self, range: std::ops::Range<usize>) -> Result<&mut [E], String> {
        if size_of::<E>() as u64 != self.dtype.bytes() || range.start > range.end || range.end > self.len() {
            return Err(format!("elements {range:?} to write are outside a tensor of {}", self.len()));
        }
        // SAFETY: the range is inside the tensor; the caller promises that it is this task's alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.data.cast::<E>().add(range.start), range.len()) })
    }

    /// Checks the dtype.
    pub fn expect(&self, dtype: DType) -> Result<(), String> {
        match self.dtype == dtype {
            true => Ok(()),
            false => Err(format!("expected a tensor of {dtype}, found one of {}", self.dtype)),
        }
    }

    /// Checks dtype and shape.
    pub fn expect_shape(&self, dtype: DType, shape: &[usize]) -> Result<(), String> {
        self.expect(dtype)?;
        match self.shape == shape {
            true => Ok(()),
            false => Err(format!("expected shape {shape:?}, found {:?}", self.shape)),
        }
    }
}

/// The blocks of one layer, in the layout of [`plan::KvGroup`].
#[derive(Debug)]
pub struct KvLayer {
    pub(super) dtype: DType,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) block_tokens: usize,
    pub(super) blocks: usize,
    pub(super) data: *mut u8,
}

// SAFETY: as for `Tensor`.
unsafe impl Send for KvLayer {}
// SAFETY: as for `Tensor`.
unsafe impl Sync for KvLayer {}

impl KvLayer {
    /// The element offset of the first key of a head in a block; the values follow `block_tokens * head_dim` later.
    pub(super) fn keys_at(&self, block: i32, head: usize) -> Result<usize, String> {
        let index = usize::try_from(block).ok().filter(|index| *index < self.blocks && head < self.kv_heads);
        let index = index.ok_or_else(|| format!("KV block {block} is outside a pool of {}", self.blocks))?;
        Ok((index * self.kv_heads + head) * 2 * self.block_tokens * self.head_dim)
    }
}

impl Args {
    /// Checks the number of inputs and outputs.
    pub fn expect_counts(&self, inputs: usize, outputs: usize) -> Result<(), String> {
        match self.inputs.len() == inputs && self.outputs.len() == outputs {
            true => Ok(()),
            false => Err(format!(
                "expected {inputs} inputs and {outputs} outputs, found {} and {}",
                self.inputs.len(),
                self.outputs.len()
            )),
        }
    }

    /// The KV cache layer.
    pub fn kv(&self) -> Result<&KvLayer, String> {
        self.kv.as_ref().ok_or_else(|| "expected a layer of the KV cache".to_owned())
    }

    /// The inputs.
    pub fn read(&self) -> RowArgs<'_> {
        RowArgs { inputs: &self.inputs, kernel: &self.kernel }
    }

    /// A positive integer parameter.
    pub fn int(&self, name: &str) -> Result<usize, String> {
        self.read().int(name)
    }

    /// A string parameter, if there is one of this name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.read().text(name)
    }

    /// A floating-point parameter.
    pub fn float(&self, name: &str) -> Result<f32, String> {
        self.read().float(name)
    }
}

impl<'a> RowArgs<'a> {
    /// A positive integer parameter.
    pub fn int(&self, name: &str) -> Result<usize, String> {
        match self.kernel.param(name) {
            Some(Scalar::Int(value)) if *value > 0 => Ok(*value as usize),
            _ => Err(format!("expected a positive integer parameter `{name}`")),
        }
    }

    /// A string parameter, if there is one of this name.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        match self.kernel.param(name) {
            Some(Scalar::Text(value)) => Some(value),
            _ => None,
        }
    }

    /// A floating-point parameter.
    pub fn float(&self, name: &str) -> Result<f32, String> {
        match self.kernel.param(name) {
            Some(Scalar::Float(value)) => Ok(*value as f32),
            _ => Err(format!("expected a floating-point parameter `{name}`")),
        }
    }
}
