//! The graph of a model: typed ops, their text form, the verifier, rewriting by patches, and the interpreter that
//! defines semantics. Does no I/O; knows no device and no kernel.

mod attr;
mod dag;
mod derived_weights;
mod extract;
mod graph;
mod host;
mod interpreter;
mod kv;
mod op;
pub mod ops;
mod rewrite;
pub mod text;
mod types;
mod verify;
mod weights;

pub use attr::{AttrReader, AttrValue, Attribute, read_attr};
pub use dag::{OpId, Use, Value};
pub use derived_weights::DerivedWeights;
pub use extract::extract;
pub use graph::{Graph, GraphError, Output};
pub use host::{HostData, HostTensor};
pub use interpreter::{Environment, EvalError, constant_value, evaluate};
pub use kv::{KvAccess, KvDecl, KvState, Slot, Tokens};
pub use op::{AttrInfo, DeclaredOp, Op, OpClass, OpDef, OpInfo, Operands, Semantics};
pub use ops::OpSet;
/// Element types, sizes and formulas, from the types that compiler and runtime share.
pub use plan::{Apply, DType, Dim, Formula, ScalarFn, Store, Term, largest_magnitude, scale_block, scale_of};
pub use rewrite::{Patch, PatchValue, RewriteError, Rule, expand, rewrite};
pub use types::{TensorType, Type, TypeError, expect_dtype, expect_rank, expect_same, type_error};
pub use verify::{Diagnostic, Stage, Verified, verify};
pub use weights::{NoWeights, WeightSource, read_tensor};
