//! The interface of an op, and the macro that implements most of it from a declaration.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use plan::{DType, Formula};

use crate::{AttrReader, AttrValue, Graph, HostTensor, KvAccess, KvState, OpId, Patch, Type, TypeError};

/// How an op relates the elements of its operands to those of its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpClass {
    /// Has no operands, and the same value in every step.
    Source,
    /// Each result element depends on the operand elements of the same index; an operand may be a broadcast row.
    Elementwise,
    /// Each result row depends on the operand rows of the same index.
    Reduction,
    /// A sum of products over an axis.
    Matmul,
    /// Copies elements to other positions.
    Movement,
    /// Reads or writes the state of a layer.
    State,
}

/// Names of an op's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operands {
    /// Required.
    pub required: &'static [&'static str],
    /// Optional, in this order.
    pub optional: &'static [&'static str],
    /// Any number of further operands under one name.
    pub rest: Option<&'static str>,
}

impl Operands {
    /// The name of an operand.
    pub fn name(&self, index: usize) -> Option<&'static str> {
        self.required.iter().chain(self.optional).nth(index).copied().or(self.rest)
    }

    /// Whether an op may have this many operands; the error says how many are allowed.
    pub fn check(&self, count: usize) -> Result<(), String> {
        let (least, most) = (self.required.len(), self.required.len() + self.optional.len());
        match self.rest {
            _ if count >= least && count <= most => Ok(()),
            Some(_) if count >= least => Ok(()),
            Some(_) => Err(format!("expected at least {least} operands, found {count}")),
            None if least == most => Err(format!("expected {least} operands, found {count}")),
            None => Err(format!("expected {least} to {most} operands, found {count}")),
        }
    }
}

/// The interface of an op: six methods that every op has, `expand` for composite ops, `formula` for elementwise ones,
/// and two for ops with state in the KV cache.
pub trait OpDef: Any + fmt::Debug + Send + Sync {
    /// The name in text, `snake_case`.
    fn mnemonic(&self) -> &'static str;
    /// Names of the operands.
    fn operands(&self) -> Operands;
    /// The attributes in text form.
    fn attrs(&self) -> Vec<(&'static str, AttrValue)>;
    /// How results depend on operands.
    fn class(&self) -> OpClass;
    /// The types of the results, or why these operands are rejected. Their number has been checked.
    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError>;
    /// The values of the results: plain f32 loops that define the semantics. The interpreter rounds results to their
    /// dtype.
    fn eval(&self, operands: &[&HostTensor], state: &mut KvState) -> Result<Vec<HostTensor>, String>;
    /// The op as smaller ops, one level: code generation uses it if no kernel accepts the op. `id` is the op in its
    /// graph.
    fn expand(&self, _: &Graph, _: OpId) -> Option<Patch> {
        None
    }

    /// The op as an elementwise formula with results of these dtypes, if it has one. Such an op needs no kernel of its
    /// own.
    fn formula(&self, results: &[DType]) -> Option<Formula> {
        let _ = results;
        None
    }

    /// The part of the KV cache that the op accesses, given the types of its operands; `None` without state.
    fn kv_access(&self, _: &[&Type]) -> Option<KvAccess> {
        None
    }

    /// The same op on another layer of the KV cache; `None` without state.
    fn on_layer(&self, group: u32, layer: u32) -> Option<Op> {
        let _ = (group, layer);
        None
    }
}

/// What is written by hand for an op, in addition to its `op!` declaration.
pub trait Semantics {
    /// See [`OpDef::class`].
    const CLASS: OpClass;
    /// See [`OpDef::infer`].
    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError>;
    /// See [`OpDef::eval`].
    fn eval(&self, operands: &[&HostTensor], state: &mut KvState) -> Result<Vec<HostTensor>, String>;
    /// See [`OpDef::expand`]; most ops are not composite.
    fn expand(&self, _: &Graph, _: OpId) -> Option<Patch> {
        None
    }
    /// See [`OpDef::formula`].
    fn formula(&self, results: &[DType]) -> Option<Formula> {
        let _ = results;
        None
    }
    /// See [`OpDef::kv_access`].
    fn kv_access(&self, _: &[&Type]) -> Option<KvAccess> {
        None
    }
    /// See [`OpDef::on_layer`].
    fn on_layer(&self, group: u32, layer: u32) -> Option<Op> {
        let _ = (group, layer);
        None
    }
}

/// What `op!` knows about an op without an instance.
pub trait DeclaredOp: OpDef + Sized {
    /// The name in text.
    const MNEMONIC: &'static str;
    /// The documentation of the declaration.
    const DOC: &'static str;
    /// Names of the operands.
    const OPERANDS: Operands;
    /// The attributes.
    const ATTRS: &'static [AttrInfo];
    /// How results depend on operands.
    const CLASS: OpClass;
    /// See [`OpInfo::read_attr`].
    fn read_attr(name: &str, value: Option<&AttrValue>) -> Result<Option<AttrValue>, String>;
    /// An op from its attributes in text.
    fn from_attrs(attrs: AttrReader) -> Result<Self, String>;
}

/// An attribute of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrInfo {
    /// Its name in text.
    pub name: &'static str,
    /// Its type in Rust, as the declaration spells it.
    pub ty: &'static str,
}

/// A row of an op list: help for an op, and its parser.
#[derive(Clone, Copy, Debug)]
pub struct OpInfo {
    /// The name in text.
    pub mnemonic: &'static str,
    /// What it does: the documentation of its declaration.
    pub doc: &'static str,
    /// Names of the operands.
    pub operands: Operands,
    /// The attributes.
    pub attrs: &'static [AttrInfo],
    /// How results depend on operands.
    pub class: OpClass,
    /// One attribute, or its absence, as the op prints it; the error says what was expected.
    pub read_attr: fn(&str, Option<&AttrValue>) -> Result<Option<AttrValue>, String>,
    /// An op from its attributes in text.
    pub parse: fn(AttrReader) -> Result<Op, String>,
}

impl OpInfo {
    /// The row of a declared op.
    pub fn of<T: DeclaredOp>() -> OpInfo {
        OpInfo {
            mnemonic: T::MNEMONIC,
            doc: T::DOC,
            operands: T::OPERANDS,
            attrs: T::ATTRS,
            class: T::CLASS,
            read_attr: T::read_attr,
            parse: |attrs| T::from_attrs(attrs).map(Op::new),
        }
    }
}

/// An op of any kind.
#[derive(Clone, Debug)]
pub struct Op(Arc<dyn OpDef>);

impl Op {
    /// Wraps an op.
    pub fn new(op: impl OpDef) -> Op {
        Op(Arc::new(op))
    }

    /// The op, if it is a `T`.
    pub fn cast<T: OpDef>(&self) -> Option<&T> {
        let any: &dyn Any = self.0.as_ref();
        any.downcast_ref()
    }
}

impl std::ops::Deref for Op {
    type Target = dyn OpDef;

    fn deref(&self) -> &(dyn OpDef + 'static) {
        self.0.as_ref()
    }
}

/// Ops are equal if their text is.
impl PartialEq for Op {
    fn eq(&self, other: &Op) -> bool {
        self.mnemonic() == other.mnemonic() && self.attrs() == other.attrs()
    }
}

/// Declares an op: documentation, name, operands and attributes. `Semantics` are implemented by hand below it.
///
/// Operands are `(x, weight)`, with optional ones after a semicolon, `(x, weight; bias)`, or any number of one name
/// there, `(x, weight; more..)`, or only those, `(parts..)`. Attributes are typed fields: `{ eps: f32 }`.
#[macro_export]
macro_rules! op {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident = $mnemonic:literal ($($operands:tt)*) { $($attr:ident : $ty:ty),* $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $(#[doc = concat!("Attribute `", stringify!($attr), "`.")] pub $attr: $ty,)*
        }

        impl $crate::DeclaredOp for $name {
            const MNEMONIC: &'static str = $mnemonic;
            const DOC: &'static str = concat!($($doc, "\n"),+);
            const OPERANDS: $crate::Operands = $crate::op!(@operands $($operands)*);
            const ATTRS: &'static [$crate::AttrInfo] =
                &[$($crate::AttrInfo { name: stringify!($attr), ty: stringify!($ty) }),*];
            const CLASS: $crate::OpClass = <Self as $crate::Semantics>::CLASS;

            fn read_attr(
                name: &str,
                #[allow(unused)] value: Option<&$crate::AttrValue>,
            ) -> Result<Option<$crate::AttrValue>, String> {
                match name {
                    $(stringify!($attr) => $crate::read_attr::<$ty>(name, value),)*
                    _ => Err(format!("unknown attribute `{name}`")),
                }
            }

            fn from_attrs(#[allow(unused_mut)] mut attrs: $crate::AttrReader) -> Result<Self, String> {
                let op = $name { $($attr: attrs.take(stringify!($attr))?),* };
                attrs.finish()?;
                Ok(op)
            }
        }

        impl $crate::OpDef for $name {
            fn mnemonic(&self) -> &'static str {
                $mnemonic
            }

            fn operands(&self) -> $crate::Operands {
                <Self as $crate::DeclaredOp>::OPERANDS
            }

            fn attrs(&self) -> Vec<(&'static str, $crate::AttrValue)> {
                #[allow(unused_mut)]
                let mut attrs = Vec::new();
                $(if !$crate::Attribute::is_absent(&self.$attr) {
                    attrs.push((stringify!($attr), $crate::Attribute::to_value(&self.$attr)));
                })*
                attrs
            }

            fn class(&self) -> $crate::OpClass {
                <Self as $crate::Semantics>::CLASS
            }

            fn infer(&self, operands: &[&$crate::Type]) -> Result<Vec<$crate::Type>, $crate::TypeError> {
                $crate::Semantics::infer(self, operands)
            }

            fn eval(
                &self,
                operands: &[&$crate::HostTensor],
                state: &mut $crate::KvState,
            ) -> Result<Vec<$crate::HostTensor>, String> {
                $crate::Semantics::eval(self, operands, state)
            }

            fn expand(&self, graph: &$crate::Graph, id: $crate::OpId) -> Option<$crate::Patch> {
                $crate::Semantics::expand(self, graph, id)
            }

            fn formula(&self, results: &[$crate::DType]) -> Option<$crate::Formula> {
                $crate::Semantics::formula(self, results)
            }

            fn kv_access(&self, operands: &[&$crate::Type]) -> Option<$crate::KvAccess> {
                $crate::Semantics::kv_access(self, operands)
            }

            fn on_layer(&self, group: u32, layer: u32) -> Option<$crate::Op> {
                $crate::Semantics::on_layer(self, group, layer)
            }
        }
    };
    (@operands $rest:ident ..) => {
        $crate::Operands { required: &[], optional: &[], rest: Some(stringify!($rest)) }
    };
    (@operands $($required:ident),+ ; $rest:ident ..) => {
        $crate::Operands { required: &[$(stringify!($required)),+], optional: &[], rest: Some(stringify!($rest)) }
    };
    (@operands $($required:ident),* $(; $($optional:ident),+)?) => {
        $crate::Operands {
            required: &[$(stringify!($required)),*],
            optional: &[$($(stringify!($optional)),+)?],
            rest: None,
        }
    };
}
