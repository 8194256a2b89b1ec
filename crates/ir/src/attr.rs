//! Attributes of ops: typed in Rust, one small value syntax in text.

use std::fmt;

use plan::DType;

/// An attribute in text form.
#[derive(Clone, Debug, PartialEq)]
pub enum AttrValue {
    /// `3`
    Int(i64),
    /// `1e-5`
    Float(f64),
    /// `bf16`, `none`
    Word(String),
    /// `[256, 128]`
    List(Vec<AttrValue>),
    /// `llama3(8.0, 1.0, 4.0, 8192)`
    Call(String, Vec<AttrValue>),
    /// `$eps`: a capture of a rewrite rule. No op of a graph has one.
    Capture(String),
}

impl fmt::Display for AttrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[AttrValue]| {
            for (index, item) in items.iter().enumerate() {
                let separator = if index > 0 { ", " } else { "" };
                write!(f, "{separator}{item}")?;
            }
            Ok(())
        };
        match self {
            AttrValue::Int(value) => write!(f, "{value}"),
            // Debug prints the shortest digits that read back equal, with a point or an exponent.
            AttrValue::Float(value) => write!(f, "{value:?}"),
            AttrValue::Word(word) => f.write_str(word),
            AttrValue::Capture(name) => write!(f, "${name}"),
            AttrValue::List(items) => {
                f.write_str("[")?;
                list(f, items)?;
                f.write_str("]")
            }
            AttrValue::Call(name, items) => {
                write!(f, "{name}(")?;
                list(f, items)?;
                f.write_str(")")
            }
        }
    }
}

/// A Rust type of an op's attribute.
pub trait Attribute: Sized {
    /// What error messages expect.
    const EXPECTED: &'static str;
    /// The text form.
    fn to_value(&self) -> AttrValue;
    /// The value, if the text form is of this type.
    fn from_value(value: &AttrValue) -> Option<Self>;

    /// The default if text omits it; most attributes are required.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether text omits it.
    fn is_absent(&self) -> bool {
        false
    }
}

impl Attribute for u32 {
    const EXPECTED: &'static str = "a non-negative integer";

    fn to_value(&self) -> AttrValue {
        AttrValue::Int(i64::from(*self))
    }

    fn from_value(value: &AttrValue) -> Option<u32> {
        match value {
            AttrValue::Int(value) => u32::try_from(*value).ok(),
            _ => None,
        }
    }
}

impl Attribute for f64 {
    const EXPECTED: &'static str = "a number";

    fn to_value(&self) -> AttrValue {
        AttrValue::Float(*self)
    }

    fn from_value(value: &AttrValue) -> Option<f64> {
        match value {
            AttrValue::Int(value) => Some(*value as f64),
            AttrValue::Float(value) => Some(*value),
            _ => None,
        }
    }
}

impl Attribute for f32 {
    const EXPECTED: &'static str = "a number in the range of f32";

    /// The shortest decimal of the f32, so that `1e-5` prints as that.
    fn to_value(&self) -> AttrValue {
        AttrValue::Float(format!("{self:?}").parse().unwrap_or(f64::from(*self)))
    }

    fn from_value(value: &AttrValue) -> Option<f32> {
        f64::from_value(value).map(|value| value as f32).filter(|value| value.is_finite())
    }
}

impl Attribute for DType {
    const EXPECTED: &'static str = "a dtype";

    fn to_value(&self) -> AttrValue {
        AttrValue::Word(self.name().to_owned())
    }

    fn from_value(value: &AttrValue) -> Option<DType> {
        match value {
            AttrValue::Word(word) => word.parse().ok(),
            _ => None,
        }
    }
}

/// An attribute that text omits if it is `None`.
impl<T: Attribute> Attribute for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn to_value(&self) -> AttrValue {
        self.as_ref().map_or_else(|| AttrValue::Word("none".to_owned()), T::to_value)
    }

    fn from_value(value: &AttrValue) -> Option<Option<T>> {
        T::from_value(value).map(Some)
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    const EXPECTED: &'static str = "a list";

    fn to_value(&self) -> AttrValue {
        AttrValue::List(self.iter().map(T::to_value).collect())
    }

    fn from_value(value: &AttrValue) -> Option<Vec<T>> {
        match value {
            AttrValue::List(items) => items.iter().map(T::from_value).collect(),
            _ => None,
        }
    }
}

/// One attribute of type `T` as an op prints it: `None` if it is omitted.
pub fn read_attr<T: Attribute>(name: &str, value: Option<&AttrValue>) -> Result<Option<AttrValue>, String> {
    let attrs = value.map(|value| (name.to_owned(), value.clone())).into_iter().collect();
    let value: T = AttrReader::new(attrs).take(name)?;
    Ok((!value.is_absent()).then(|| value.to_value()))
}

/// Hands a parsed attribute list to an op, name by name.
#[derive(Debug)]
pub struct AttrReader {
    attrs: Vec<(String, AttrValue)>,
}

impl AttrReader {
    /// Reads from this list.
    pub fn new(attrs: Vec<(String, AttrValue)>) -> AttrReader {
        AttrReader { attrs }
    }

    /// Takes the attribute `name`.
    pub fn take<T: Attribute>(&mut self, name: &str) -> Result<T, String> {
        let index = self.attrs.iter().position(|(key, _)| key == name);
        let Some(index) = index else {
            return T::absent().ok_or_else(|| format!("expected attribute `{name}`, {}", T::EXPECTED));
        };
        let (_, value) = self.attrs.remove(index);
        T::from_value(&value).ok_or_else(|| format!("expected {} for `{name}`, found `{value}`", T::EXPECTED))
    }

    /// An error for attributes that the op did not take.
    pub fn finish(self) -> Result<(), String> {
        match self.attrs.first() {
            Some((name, _)) => Err(format!("unknown attribute `{name}`")),
            None => Ok(()),
        }
    }
}
