//! Validation of a plan: every index, offset and size is checked before an executor uses one. Time and memory are
//! linear in the size of the plan: no loop is over pairs, and problems beyond the reported ones are only counted.

mod lifetimes;
mod program;

use std::fmt::Display;

use program::check_program;

use crate::cubin;
use crate::devices::sm90;
use crate::{Buffer, DType, KvGroup, Layout, Plan, Problems, SymbolValues, WEIGHT_ALIGN, Weight, WeightData};

/// Sizes above this, and sums of sizes, are refused: they cannot be real, and later sums must not overflow.
const MAX_BYTES: u64 = 1 << 48;
/// Threads per block that any GPU so far has at most. (CUDA C++ Programming Guide, "Compute Capabilities".)
const MAX_THREADS: u32 = 1024;
/// Maximum size of a name: several fit into one error.
const MAX_NAME_BYTES: usize = 512;
/// Axes of a tensor.
const MAX_RANK: usize = 8;
/// Parameters of a kernel: lookups search all of them.
const MAX_PARAMS: usize = 64;

/// Checks a plan whose weight section has `weight_bytes` bytes.
pub fn check(plan: &Plan, weight_bytes: u64) -> Result<(), Problems> {
    let mut problems = Problems::default();
    check_names(plan, &mut problems);
    // the other problems are reported by name
    if problems.is_empty() {
        plan.weights.iter().for_each(|weight| check_weight(weight, weight_bytes, &mut problems));
        check_kv(plan, &mut problems);
        check_code(plan, &mut problems);
        check_limits(plan, &mut problems);
        for program in &plan.programs {
            check_program(plan, program, &mut |problem: &dyn Display| {
                problems.add(format_args!("program `{}`: {problem}", program.name));
            });
        }
    }
    problems.into_result()
}

/// Names are short: errors, and tables of them, stay readable.
fn check_names(plan: &Plan, problems: &mut Problems) {
    let kernels = plan.kernels.iter().map(|kernel| ("a kernel", &kernel.name));
    let weights = plan.weights.iter().map(|weight| ("a weight", &weight.name));
    let of_plan = weights.chain(kernels).chain([("the target", &plan.target)]);
    let of_programs = plan.programs.iter().flat_map(|program| {
        let buffers = program.buffers.iter().map(|buffer| ("a buffer", &buffer.name));
        let ports = program.inputs.iter().chain(&program.outputs).map(|port| ("a port", &port.name));
        let sites = program.steps.iter().map(|crate::Step::Launch(launch)| ("a launch", &launch.site));
        buffers.chain(ports).chain(sites).chain([("a program", &program.name)])
    });
    let symbols = plan.programs.iter().flat_map(|program| &program.symbols);
    let symbols = symbols.map(|decl| ("a symbol", decl.symbol.name()));
    let names = of_plan.chain(of_programs).map(|(what, name)| (what, name.as_str())).chain(symbols);
    for (what, name) in names.filter(|(_, name)| name.len() > MAX_NAME_BYTES) {
        problems.add(format_args!("the name of {what} has {} bytes, expected at most {MAX_NAME_BYTES}", name.len()));
    }
}

fn check_weight(weight: &Weight, weight_bytes: u64, problems: &mut Problems) {
    let name = &weight.name;
    let bytes = weight.bytes().filter(|bytes| (1..=MAX_BYTES).contains(bytes) && weight.shape.len() <= MAX_RANK);
    let Some(bytes) = bytes else {
        problems.add(format_args!("weight `{name}` has an impossible size"));
        return;
    };
    match &weight.data {
        WeightData::Stored { offset } => {
            let inside = offset.checked_add(bytes).is_some_and(|end| end <= weight_bytes);
            if !inside || offset % WEIGHT_ALIGN != 0 {
                problems.add(format_args!("weight `{name}` is outside the weight section"));
            }
        }
        WeightData::Random(parts) => {
            let elements = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.elements));
            let random = weight.dtype.is_float() || weight.dtype.is_code();
            // two values that share a byte are written at once
            let split = weight.layout == Layout::Packed && parts.iter().any(|part| part.elements % 2 != 0);
            if elements.is_none() || elements != weight.elements() || !random || split {
                problems.add(format_args!("the random parts of weight `{name}` do not add up to its shape"));
            }
        }
    }
}

fn check_kv(plan: &Plan, problems: &mut Problems) {
    for (index, group) in plan.kv.iter().enumerate() {
        let sizes = [group.layers, group.kv_heads, group.head_dim, group.block_tokens, group.blocks];
        let product = sizes.iter().try_fold(8u64, |bytes, size| bytes.checked_mul(u64::from(*size)));
        let storable = group.dtype.is_float() || matches!(group.dtype, DType::I8 | DType::F8E4M3);
        if sizes.contains(&0) || product.is_none_or(|bytes| bytes > MAX_BYTES) || !storable {
            problems.add(format_args!("KV group {index} has an impossible size or dtype"));
        }
    }
}

fn check_limits(plan: &Plan, problems: &mut Problems) {
    let limits = &plan.limits;
    let sizes = [limits.max_batch_size, limits.max_input_len, limits.max_seq_len, limits.max_num_tokens];
    if sizes.contains(&0) || limits.max_logit_rows == 0 || plan.world_size != 1 {
        problems.add("a limit is zero, or the plan needs more than one device");
    }
    if !problems.is_empty() {
        return;
    }
    let weights = plan.weights.iter().map(|weight| weight.bytes().unwrap_or(0));
    let mut sizes = weights.chain(plan.kv.iter().map(KvGroup::pool_bytes));
    let sum = sizes.try_fold(0u64, |sum, bytes| sum.checked_add(bytes));
    if sum.is_none_or(|sum| sum > MAX_BYTES) {
        problems.add("the total size of weights and KV cache is impossible");
    }
}

/// GPU plans contain the code of their kernels, others none.
fn check_code(plan: &Plan, problems: &mut Problems) {
    let on_gpu = plan.target.starts_with("sm_");
    for kernel in &plan.kernels {
        let fits = match &kernel.code {
            None => !on_gpu,
            Some(code) => {
                let block = (1..=MAX_THREADS).contains(&code.threads) && code.shared_bytes <= sm90::SHARED_BYTES;
                on_gpu && block
            }
        };
        if !fits {
            let name = &kernel.name;
            problems.add(format_args!("kernel `{name}` has no code for the target, or an impossible block"));
        }
        if kernel.params.len() > MAX_PARAMS {
            let found = kernel.params.len();
            let name = &kernel.name;
            problems.add(format_args!("kernel `{name}` has {found} parameters, expected at most {MAX_PARAMS}"));
        }
        if let Some(Err(reason)) = kernel.code.as_ref().map(|code| cubin::check(&code.cubin)) {
            problems.add(format_args!("the machine code of kernel `{}` is damaged: {reason}", kernel.name));
        }
    }
}

/// Bytes of a buffer under `values`, `None` if undefined or overflowing.
pub(crate) fn buffer_bytes(buffer: &Buffer, values: &SymbolValues) -> Option<u64> {
    buffer.shape.iter().try_fold(buffer.dtype.bytes(), |bytes, dim| bytes.checked_mul(dim.eval(values).ok()?))
}
