//! Types that compiler and runtime share: element types, symbolic sizes, the plan and its file, and the executor
//! interface. Knows neither the graph a plan came from nor the device it runs on.

mod check;
pub mod claims;
mod codec;
mod cubin;
pub mod devices;
mod dim;
mod dtype;
mod dump;
pub mod e4m3;
mod executor;
mod file;
mod formula;
mod greedy;
pub mod input;
mod layout;
mod live;
pub mod mapped;
mod model;
pub mod partial;
mod problems;
mod random;
mod roofline;
mod scalar;
mod scales;
mod step_cost;
pub mod terminal;
mod work;

pub use check::check;
pub use dim::{Dim, DimError, Symbol, SymbolDecl, SymbolValues, upper_bounds};
pub use dtype::DType;
pub use dump::{dump, float_text};
pub use executor::{
    Bindings, ExecError, Executor, InputData, PortData, Profile, Run, Session, StepId, check_symbols, median,
};
pub use file::{CHUNK_BYTES, FORMAT_VERSION, PlanError, PlanFile, PlanWriter};
pub use formula::{Apply, BLOCK, Formula, Registers, Store, Term};
pub use greedy::most_likely;
pub use layout::{Layout, Tiles, WEIGHT_ALIGN};
pub use live::FullestStep;
pub use model::{
    Arg, Buffer, Code, Input, Kernel, KvGroup, Launch, Limits, Model, Param, Plan, Port, Program, ProgramKind, Scalar,
    Step, TensorMap, TextFile, Weight, WeightData,
};
pub use problems::{MAX_ERROR_BYTES, Problems, clipped, listed};
pub use random::RandomPart;
pub use roofline::{Arithmetic, Bound, Estimate, Machine};
pub use scalar::ScalarFn;
pub use scales::{SMALLEST_SCALE, largest_magnitude, scale_block, scale_of};
pub use step_cost::{full_step, step_cost};
pub use work::{CONTEXT, Cost, Work, context};
