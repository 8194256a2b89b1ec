//! Values from outside the graph: weights and inputs. Both carry their type.

use crate::{AttrValue, HostTensor, KvState, OpClass, OpDef, Operands, TensorType, Type, TypeError};

const NO_OPERANDS: Operands = Operands { required: &[], optional: &[], rest: None };

/// A tensor of the checkpoint: `constant @"model.norm.weight" : bf16[4096]`. The bytes are never in the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its key in a [`crate::WeightSource`].
    pub key: String,
    /// Its type.
    pub ty: TensorType,
}

impl OpDef for Constant {
    fn mnemonic(&self) -> &'static str {
        "constant"
    }

    fn operands(&self) -> Operands {
        NO_OPERANDS
    }

    fn attrs(&self) -> Vec<(&'static str, AttrValue)> {
        vec![("key", AttrValue::Word(self.key.clone()))]
    }

    fn class(&self) -> OpClass {
        OpClass::Source
    }

    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>, TypeError> {
        Ok(vec![self.ty.clone().into()])
    }

    fn eval(&self, _: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Err(format!("the value of `{}` is not in the graph", self.key))
    }
}

/// An input of each step.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Its type.
    pub ty: TensorType,
}

impl OpDef for Input {
    fn mnemonic(&self) -> &'static str {
        "input"
    }

    fn operands(&self) -> Operands {
        NO_OPERANDS
    }

    fn attrs(&self) -> Vec<(&'static str, AttrValue)> {
        Vec::new()
    }

    /// Not a [`OpClass::Source`]: its value differs between steps.
    fn class(&self) -> OpClass {
        OpClass::State
    }

    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>, TypeError> {
        Ok(vec![self.ty.clone().into()])
    }

    fn eval(&self, _: &[&HostTensor], _: &mut KvState) -> Result<Vec<HostTensor>, String> {
        Err("the value of an input is not in the graph".to_owned())
    }
}
