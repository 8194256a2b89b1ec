//! Rotary position embedding, in the half-split layout of Hugging Face files, and the frequencies of its variants.

use plan::DType;

use crate::{
    AttrValue, Attribute, HostTensor, KvState, OpClass, Semantics, TensorType, Type, TypeError, expect_dtype,
    expect_rank, expect_same, op, type_error,
};

op! {
    /// Rotates each head of `[T, heads * head_dim]` by its token's position: with `D = 2 * len(frequencies)` and `a =
    /// position * frequencies[i]`, elements `i` and `i + D/2` become `x[i] cos a - x[i + D/2] sin a` and `x[i + D/2]
    /// cos a + x[i] sin a`. Elements from `D` on are unchanged. The result has the dtype of `x`, or `to`. (RoFormer,
    /// arXiv 2104.09864.)
    pub struct Rope = "rope" (x, positions, frequencies) { head_dim: u32, to: Option<DType> }
}

op! {
    /// The frequencies of a rotary embedding, f32 `[dim / 2]`: `theta^(-2i / dim)`, then scaled. Each step is rounded
    /// to f32, as transformers computes them: at position 1000, the last bit of a frequency is 6e-5 of an angle.
    pub struct RopeFrequencies = "rope_frequencies" () { dim: u32, theta: f64, scaling: RopeScaling }
}

/// How RoPE is scaled beyond the training length.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// All frequencies divided by the factor. (Position interpolation, arXiv 2306.15595.)
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Low frequencies divided by the factor, high ones kept, those between blended. (Llama 3.1, as in the
    /// `llama3` rope type of Hugging Face transformers.)
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` count as low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` count as high frequencies.
        high_freq_factor: f64,
        /// The original training length.
        original_max_position: u32,
    },
}

impl Attribute for RopeScaling {
    const EXPECTED: &'static str = "`default`, `linear(factor)` or \
         `llama3(factor, low_freq_factor, high_freq_factor, original_max_position)`";

    fn to_value(&self) -> AttrValue {
        match self {
            RopeScaling::Default => AttrValue::Word("default".to_owned()),
            RopeScaling::Linear { factor } => AttrValue::Call("linear".to_owned(), vec![AttrValue::Float(*factor)]),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let floats = [factor, low_freq_factor, high_freq_factor].map(|value| AttrValue::Float(*value));
                let mut items = floats.to_vec();
                items.push(original_max_position.to_value());
                AttrValue::Call("llama3".to_owned(), items)
            }
        }
    }

    fn from_value(value: &AttrValue) -> Option<RopeScaling> {
        match value {
            AttrValue::Word(word) if word == "default" => Some(RopeScaling::Default),
            AttrValue::Call(name, items) => match (name.as_str(), items.as_slice()) {
                ("linear", [factor]) => Some(RopeScaling::Linear { factor: f64::from_value(factor)? }),
                ("llama3", [factor, low, high, original]) => Some(RopeScaling::Llama3 {
                    factor: f64::from_value(factor)?,
                    low_freq_factor: f64::from_value(low)?,
                    high_freq_factor: f64::from_value(high)?,
                    original_max_position: u32::from_value(original)?,
                }),
                _ => None,
            },
            _ => None,
        }
    }
}

impl RopeScaling {
    /// The scaled form of one frequency, in radians per position.
    fn apply(&self, frequency: f32) -> f32 {
        match *self {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor as f32,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let original = f64::from(original_max_position);
                let wavelength = std::f32::consts::TAU / frequency;
                if wavelength > (original / low_freq_factor) as f32 {
                    frequency / factor as f32
                } else if wavelength < (original / high_freq_factor) as f32 {
                    frequency
                } else {
                    let rotations = original as f32 / wavelength;
                    let smooth = (rotations - low_freq_factor as f32) / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
                }
            }
        }
    }
}

impl Semantics for RopeFrequencies {
    const CLASS: OpClass = OpClass::Source;

    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>, TypeError> {
        if self.dim == 0 || !self.dim.is_multiple_of(2) {
            return type_error(format!("expected an even rotary dimension, found {}", self.dim));
        }
        Ok(vec![TensorType::new(DType::F32, [u64::from(self.dim / 2)]).into()])
    }

    fn eval(&self, _: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let half = self.dim / 2;
        let frequency = |i: u32| {
            let exponent = (2 * i) as f32 / self.dim as f32;
            // the nearest f32 of the power, which an f32 power function may miss by a bit
            1.0 / f64::from(self.theta as f32).powf(f64::from(exponent)) as f32
        };
        let values = (0..half).map(|i| self.scaling.apply(frequency(i))).collect();
        Ok(vec![HostTensor::f32([half as usize], values)])
    }
}

/// Checks that `rope` and `rope_append_kv` share.
pub(super) fn check_rope(
    x: &TensorType,
    positions: &TensorType,
    frequencies: &TensorType,
    head_dim: u32,
) -> Result<(), TypeError> {
    expect_rank("x", x, 2)?;
    expect_rank("positions", positions, 1)?;
    expect_dtype("positions", positions, DType::I32)?;
    expect_same("the tokens of x and positions", &x.shape[0], &positions.shape[0])?;
    expect_rank("frequencies", frequencies, 1)?;
    expect_dtype("frequencies", frequencies, DType::F32)?;
    if frequencies.width().is_none_or(|half| 2 * half > u64::from(head_dim)) {
        return type_error(format!("expected at most {head_dim} / 2 frequencies, found {frequencies}"));
    }
    match x.width() {
        Some(width) if head_dim > 0 && width % u64::from(head_dim) == 0 && x.dtype.is_float() => Ok(()),
        _ => type_error(format!("expected a floating-point tensor of whole heads of {head_dim}, found {x}")),
    }
}

/// Rotates one head in place.
pub(super) fn rotate(head: &mut [f32], position: i32, frequencies: &[f32]) {
    let half = frequencies.len();
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position as f32 * frequency).sin_cos();
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos - b * sin;
        head[i + half] = b * cos + a * sin;
    }
}

impl Semantics for Rope {
    const CLASS: OpClass = OpClass::Reduction;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (x, positions, frequencies) = (operands[0].tensor()?, operands[1].tensor()?, operands[2].tensor()?);
        check_rope(x, positions, frequencies, self.head_dim)?;
        Ok(vec![x.clone().rounded(self.to)?.into()])
    }

    fn eval(&self, operands: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let mut values = operands[0].floats().to_vec();
        let rows = values.chunks_exact_mut(operands[0].width());
        for (row, position) in rows.zip(operands[1].ints()) {
            for head in row.chunks_exact_mut(self.head_dim as usize) {
                rotate(head, *position, operands[2].floats());
            }
        }
        Ok(vec![HostTensor::f32(operands[0].shape.clone(), values)])
    }
}
