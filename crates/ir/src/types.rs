//! Types of values, and the checks that ops share.

use std::fmt;

use plan::{DType, Dim};

/// Element type and sizes of a tensor, row-major.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Storage type of an element.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type, with sizes from any convertible values.
    pub fn new<D: Into<Dim>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> TensorType {
        TensorType { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// The same type in another floating-point dtype, if an op rounds its result.
    pub fn rounded(self, to: Option<DType>) -> Result<TensorType, TypeError> {
        match to {
            None => Ok(self),
            Some(to) if to.is_float() && to != self.dtype => Ok(TensorType { dtype: to, ..self }),
            Some(to) => type_error(format!("expected another floating-point dtype than {}, found {to}", self.dtype)),
        }
    }

    /// The innermost size, if it is constant.
    pub fn width(&self) -> Option<u64> {
        self.shape.last().and_then(Dim::as_const)
    }

    /// The sizes, if all are constant.
    pub fn const_shape(&self) -> Option<Vec<u64>> {
        self.shape.iter().map(Dim::as_const).collect()
    }

    /// The same type with another innermost size.
    pub fn with_width(&self, width: u64) -> TensorType {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::from(width);
        }
        TensorType { dtype: self.dtype, shape }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (index, dim) in self.shape.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{dim}")?;
        }
        f.write_str("]")
    }
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A tensor.
    Tensor(TensorType),
    /// No data: orders ops on the state of a layer.
    Effect,
}

impl Type {
    /// The tensor type; an error for an effect.
    pub fn tensor(&self) -> Result<&TensorType, TypeError> {
        match self {
            Type::Tensor(ty) => Ok(ty),
            Type::Effect => type_error("expected a tensor, found an effect"),
        }
    }
}

impl From<TensorType> for Type {
    fn from(ty: TensorType) -> Type {
        Type::Tensor(ty)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(ty) => write!(f, "{ty}"),
            Type::Effect => f.write_str("effect"),
        }
    }
}

/// Why an op does not accept its operands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub String);

/// `Err` with this message.
pub fn type_error<T>(message: impl Into<String>) -> Result<T, TypeError> {
    Err(TypeError(message.into()))
}

/// The operand must have this number of dimensions.
pub fn expect_rank(name: &str, ty: &TensorType, rank: usize) -> Result<(), TypeError> {
    match ty.shape.len() == rank {
        true => Ok(()),
        false => type_error(format!("expected `{name}` of rank {rank}, found {ty}")),
    }
}

/// The operand must have this element type.
pub fn expect_dtype(name: &str, ty: &TensorType, dtype: DType) -> Result<(), TypeError> {
    match ty.dtype == dtype {
        true => Ok(()),
        false => type_error(format!("expected `{name}` of dtype {dtype}, found {ty}")),
    }
}

/// Two sizes or types must be equal.
pub fn expect_same<T: PartialEq + fmt::Display>(what: &str, a: &T, b: &T) -> Result<(), TypeError> {
    match a == b {
        true => Ok(()),
        false => type_error(format!("{what} differ: {a} and {b}")),
    }
}
