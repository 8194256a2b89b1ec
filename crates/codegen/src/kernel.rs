//! A kernel as seen by code generation: the ops that it supports, where, and how it is launched.

use std::fmt;

use ir::{Graph, OpDef, OpId, TensorType, Value};
use plan::devices::cpu;
use plan::{Code, Dim, Layout, Param, Scalar, TensorMap};

use crate::ProgramShape;
use crate::cuda::{Header, flatten};

/// A kernel as seen by code generation: its supported ops, and its configurations.
pub trait Kernel: fmt::Debug + Send + Sync {
    /// Its name in plans and executors.
    fn name(&self) -> &'static str;

    /// The configuration for an op, or the reason why it is not supported.
    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal>;

    /// All configurations worth timing for this op. Without timings, that of [`Kernel::call`] is used.
    fn candidates(&self, site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
        Ok(vec![self.call(site)?])
    }

    /// Its description in lists of kernels.
    fn about(&self) -> About {
        About::default()
    }
}

/// The description of a kernel in lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Names of its ops.
    pub ops: &'static [&'static str],
    /// The file with its code.
    pub file: &'static str,
}

/// An op in a program, for which a kernel is selected.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The op.
    pub op: OpId,
    /// The program, which bounds the sizes.
    pub program: &'a ProgramShape,
}

impl<'a> Site<'a> {
    /// The op, if it is a `T`.
    pub fn cast<T: OpDef>(&self) -> Result<&'a T, Refusal> {
        self.graph.cast::<T>(self.op).ok_or(Refusal::OtherOp)
    }

    /// An operand.
    pub fn operand(&self, index: usize) -> Result<Value, Refusal> {
        self.graph.operands(self.op).get(index).copied().ok_or(Refusal::OtherOp)
    }

    /// The type of an operand that is a tensor.
    pub fn operand_type(&self, index: usize) -> Result<&'a TensorType, Refusal> {
        self.tensor(self.operand(index)?)
    }

    /// The type of the first result.
    pub fn result_type(&self) -> Result<&'a TensorType, Refusal> {
        self.tensor(self.graph.result(self.op))
    }

    /// The type of a value that is a tensor.
    pub fn tensor(&self, value: Value) -> Result<&'a TensorType, Refusal> {
        self.graph.tensor(value).ok_or_else(|| Refusal::because("an operand is an effect"))
    }

    /// A dimension of an operand.
    pub fn dim(&self, operand: usize, index: usize) -> Result<Dim, Refusal> {
        let shape = &self.operand_type(operand)?.shape;
        shape.get(index).cloned().ok_or_else(|| Refusal::because("an operand has too few dimensions"))
    }

    /// The innermost size of the first result, for kernels that are instantiated for it.
    pub fn width(&self) -> Result<u64, Refusal> {
        self.result_type()?.width().ok_or_else(|| Refusal::because("its rows have a symbolic width"))
    }

    /// The rows of the first result: all sizes except the innermost.
    pub fn row_count(&self) -> Result<Dim, Refusal> {
        let shape = &self.result_type()?.shape;
        let outer = shape.split_last().map_or(&[][..], |(_, outer)| outer);
        Ok(outer.iter().cloned().fold(Dim::from(1), |product, dim| product * dim))
    }

    /// A call of a CPU kernel with a few rows of the first result per task.
    pub fn by_rows(&self) -> Result<Call, Refusal> {
        Ok(Call::grid(self.row_count()?.ceil_div(cpu::ROWS_PER_TASK)))
    }
}

/// A kernel's configuration for one op.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Part of the kernel's identity: launches with equal parameters share one kernel.
    pub params: Vec<Param>,
    /// Independent tasks, over the graph's symbols.
    pub grid: Dim,
    /// The part of the KV cache that it accesses.
    pub kv: Option<KvUse>,
    /// Required layouts of weight operands, by operand; others are row-major.
    pub layouts: Vec<(usize, Layout)>,
    /// Additional data for GPUs.
    pub device: Option<DeviceCall>,
}

/// The part of the KV cache that a kernel accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvUse {
    /// KV group.
    pub group: u32,
    /// Layer within the group.
    pub layer: u32,
    /// Whether it writes.
    pub writes: bool,
    /// Whether it reads entries of earlier steps.
    pub reads: bool,
}

impl KvUse {
    /// For a kernel that reads entries.
    pub fn reading(group: u32, layer: u32) -> KvUse {
        KvUse { group, layer, writes: false, reads: true }
    }

    /// For a kernel that writes the entries of this step.
    pub fn writing(group: u32, layer: u32) -> KvUse {
        KvUse { group, layer, writes: true, reads: false }
    }

    /// For a kernel that writes the entries of this step, and attends to them and earlier ones.
    pub fn attending(group: u32, layer: u32) -> KvUse {
        KvUse { group, layer, writes: true, reads: true }
    }
}

/// A kernel's code for one op, and how it is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCall {
    /// The unit: CUDA C that includes files of `kernels/` and has one entry of the kernel's name.
    pub unit: String,
    /// Files that it includes besides those of `kernels/`.
    pub headers: Vec<Header>,
    /// Threads per block.
    pub threads: u32,
    /// Bytes of dynamic shared memory per block.
    pub shared_bytes: u32,
    /// Tensor maps, passed after the pointers of outputs and inputs.
    pub maps: Vec<TensorMap>,
    /// Sizes, passed last, over the graph's symbols.
    pub scalars: Vec<Dim>,
}

impl DeviceCall {
    /// The unit without includes.
    pub fn source(&self) -> String {
        flatten(&self.unit, &self.headers)
    }
}

impl Call {
    /// A call with this grid and no parameters.
    pub fn grid(grid: Dim) -> Call {
        Call { params: Vec::new(), grid, kv: None, layouts: Vec::new(), device: None }
    }

    /// The same call with an integer parameter.
    pub fn int(mut self, name: &str, value: impl Into<i64>) -> Call {
        self.params.push(Param { name: name.to_owned(), value: Scalar::Int(value.into()) });
        self
    }

    /// The same call with a real parameter.
    pub fn float(mut self, name: &str, value: impl Into<f64>) -> Call {
        self.params.push(Param { name: name.to_owned(), value: Scalar::Float(value.into()) });
        self
    }

    /// The same call with a text parameter.
    pub fn text(mut self, name: &str, value: impl Into<String>) -> Call {
        self.params.push(Param { name: name.to_owned(), value: Scalar::Text(value.into()) });
        self
    }

    /// The same call on a part of the KV cache.
    pub fn kv(mut self, kv: KvUse) -> Call {
        self.kv = Some(kv);
        self
    }

    /// The same call with a weight in this layout.
    pub fn layout(mut self, operand: usize, layout: Layout) -> Call {
        self.layouts.push((operand, layout));
        self
    }

    /// The kernel in a plan; its cubin comes when the plan is built.
    pub(crate) fn kernel(&self, name: &str) -> plan::Kernel {
        let code = self.device.as_ref().map(|device| Code {
            source: device.source(),
            cubin: Vec::new(),
            threads: device.threads,
            shared_bytes: device.shared_bytes,
        });
        plan::Kernel { name: name.to_owned(), params: self.params.clone(), code }
    }
}

/// Why a kernel does not support an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is for other ops.
    OtherOp,
    /// It is for this op, but not like this.
    Because(String),
}

impl Refusal {
    /// A refusal with this reason.
    pub fn because(reason: impl Into<String>) -> Refusal {
        Refusal::Because(reason.into())
    }
}

/// A kernel with its parameters, as texts show it: `linear_skinny {n = 6144, warps = 8}`.
pub(crate) fn configured(kernel: &str, call: &Call) -> String {
    let params: Vec<String> = call.params.iter().map(param_text).collect();
    format!("{kernel} {{{}}}", params.join(", "))
}

/// A parameter, as texts show it.
pub(crate) fn param_text(param: &Param) -> String {
    match &param.value {
        Scalar::Int(value) => format!("{} = {value}", param.name),
        Scalar::Float(value) => format!("{} = {}", param.name, plan::float_text(*value)),
        Scalar::Text(value) => format!("{} = {value}", param.name),
    }
}
