//! What code generation asks of a kernel, and the list of those it knows.

use std::fmt;

use ir::{Graph, OpId};
use plan::{Dim, Param, Scalar};

/// A kernel as code generation sees it: which ops it can do, and with which configuration.
pub trait Kernel: fmt::Debug + Send + Sync {
    /// The name that plans and executors use.
    fn name(&self) -> &'static str;

    /// How the kernel would do this op, or why it cannot.
    fn call(&self, graph: &Graph, op: OpId) -> Result<Call, Refusal>;
}

/// A kernel's configuration for one op.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Part of the kernel's identity: launches that agree share one kernel.
    pub params: Vec<Param>,
    /// Independent tasks, over the graph's symbols.
    pub grid: Dim,
    /// The part of the KV cache it touches.
    pub kv: Option<KvUse>,
}

/// The part of the KV cache that a kernel touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvUse {
    /// KV group.
    pub group: u32,
    /// Layer within the group.
    pub layer: u32,
    /// Whether it writes.
    pub writes: bool,
}

impl Call {
    /// A call with this grid and no parameters.
    pub fn grid(grid: Dim) -> Call {
        Call { params: Vec::new(), grid, kv: None }
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

    /// The same call on a part of the KV cache.
    pub fn kv(mut self, group: u32, layer: u32, writes: bool) -> Call {
        self.kv = Some(KvUse { group, layer, writes });
        self
    }
}

/// Why a kernel does not do an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is for other ops.
    OtherOp,
    /// It is for this op, but not like this.
    Because(String),
}

/// The kernels of a target, in order of preference.
#[derive(Debug, Default)]
pub struct Catalog {
    kernels: Vec<Box<dyn Kernel>>,
}

impl Catalog {
    /// A catalog of these kernels.
    pub fn new(kernels: Vec<Box<dyn Kernel>>) -> Catalog {
        Catalog { kernels }
    }

    /// The same catalog with one more kernel, preferred to those before it.
    pub fn with(mut self, kernel: Box<dyn Kernel>) -> Catalog {
        self.kernels.insert(0, kernel);
        self
    }

    /// All kernels, the preferred first.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Kernel> {
        self.kernels.iter().map(Box::as_ref)
    }
}
