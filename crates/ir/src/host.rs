//! Tensors of the interpreter: plain vectors in row-major order.

use plan::DType;

/// A tensor in host memory. Floating-point and quantized elements are stored as f32 values that the dtype can
/// represent.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: HostData,
}

/// Elements of a [`HostTensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// Of a floating-point or quantized dtype.
    F32(Vec<f32>),
    /// Of dtype `i32`.
    I32(Vec<i32>),
}

impl HostTensor {
    /// A tensor of floating-point values.
    ///
    /// # Panics
    /// If the number of values is not that of the shape.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> HostTensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values do not fill the shape");
        HostTensor { shape, data: HostData::F32(values) }
    }

    /// A tensor of integers.
    ///
    /// # Panics
    /// If the number of values is not that of the shape.
    pub fn i32(shape: impl Into<Vec<usize>>, values: Vec<i32>) -> HostTensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values do not fill the shape");
        HostTensor { shape, data: HostData::I32(values) }
    }

    /// The value of an effect: empty.
    pub fn effect() -> HostTensor {
        HostTensor::f32([0], Vec::new())
    }

    /// The elements of a floating-point tensor; type checking guarantees that it is one.
    pub fn floats(&self) -> &[f32] {
        match &self.data {
            HostData::F32(values) => values,
            HostData::I32(_) => &[],
        }
    }

    /// The elements of an integer tensor; type checking guarantees that it is one.
    pub fn ints(&self) -> &[i32] {
        match &self.data {
            HostData::I32(values) => values,
            HostData::F32(_) => &[],
        }
    }

    /// The innermost size.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows of the innermost size.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.floats().chunks_exact(self.width().max(1))
    }

    /// Rounds every element to `dtype`.
    pub fn rounded(mut self, dtype: DType) -> HostTensor {
        if let HostData::F32(values) = &mut self.data {
            values.iter_mut().for_each(|value| *value = dtype.round(*value));
        }
        self
    }

    /// A tensor of the same shape with a function applied to each element of `self` and `other`.
    pub fn zip(&self, other: &HostTensor, apply: impl Fn(f32, f32) -> f32) -> HostTensor {
        let values = self.floats().iter().zip(other.floats()).map(|(a, b)| apply(*a, *b)).collect();
        HostTensor::f32(self.shape.clone(), values)
    }

    /// A tensor of the same shape with a function applied to each element.
    pub fn map(&self, apply: impl Fn(f32) -> f32) -> HostTensor {
        HostTensor::f32(self.shape.clone(), self.floats().iter().map(|value| apply(*value)).collect())
    }
}
