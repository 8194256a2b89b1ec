//! From the body of a kernel file to a unit: its instantiation, and the `__global__` wrapper around it.

use std::fmt::Write;

use ir::{TensorType, Type};
use plan::{DType, Dim, TensorMap};

use crate::cuda::Header;
use crate::kernels::Row;
use crate::{Call, DeviceCall, KvUse, Refusal, Site};

/// An instantiation of a body, and how it is launched.
#[derive(Clone, Debug)]
pub struct Body {
    /// Name of the kernel: that of the entry.
    pub name: &'static str,
    /// The file: below `kernels/`, or one of `headers`.
    pub include: &'static str,
    /// Files of the kernel, besides those of `kernels/`.
    pub headers: Vec<Header>,
    /// The struct with its template arguments.
    pub instance: String,
    /// Threads per block: must be the body's `kThreads`.
    pub threads: u32,
    /// Dynamic shared memory: must be the body's `kSharedBytes`, unless that is 0.
    pub shared_bytes: u32,
    /// Blocks per cluster.
    pub cluster: u32,
    /// Whether the body defines `kBlocks`, the number of resident blocks per multiprocessor.
    pub says_blocks: bool,
    /// Indices of the body's inputs without an operand in this op.
    pub absent: Vec<usize>,
    /// Whether the body takes its outputs as one array.
    pub outputs_in_array: bool,
    /// Whether the body takes its inputs as one array.
    pub inputs_in_array: bool,
    /// Declarations before the body: a functor that the instance names.
    pub preamble: String,
    /// Tensor maps.
    pub maps: Vec<TensorMap>,
    /// Sizes of the step.
    pub scalars: Vec<(&'static str, Dim)>,
    /// Number of blocks.
    pub grid: Dim,
    /// The part of the KV cache that it accesses.
    pub kv: Option<KvUse>,
}

impl Body {
    /// A body of `kernels/` with the usual parameters; the instance is named without its namespace.
    pub fn new(name: &'static str, include: &'static str, instance: String, threads: u32, grid: Dim) -> Body {
        Body {
            name,
            include,
            headers: Vec::new(),
            instance: format!("smelt::{instance}"),
            threads,
            shared_bytes: 0,
            cluster: 1,
            says_blocks: false,
            absent: Vec::new(),
            outputs_in_array: false,
            inputs_in_array: false,
            preamble: String::new(),
            maps: Vec::new(),
            scalars: Vec::new(),
            grid,
            kv: None,
        }
    }

    /// The body of one of smelt's kernels.
    pub(super) fn of(kernel: &Row, instance: String, threads: u32, grid: Dim) -> Body {
        let include = kernel.file.strip_prefix("kernels/").unwrap_or(kernel.file);
        Body::new(kernel.name, include, instance, threads, grid)
    }

    /// A body of a file outside of `kernels/`; the instance is named with its namespace.
    pub fn own(name: &'static str, file: Header, instance: String, threads: u32, grid: Dim) -> Body {
        let body = Body::new(name, file.path, String::new(), threads, grid);
        Body { instance, headers: vec![file], ..body }
    }

    /// The same body with an additional size parameter at run time.
    pub fn scalar(mut self, name: &'static str, dim: Dim) -> Body {
        self.scalars.push((name, dim));
        self
    }

    /// The call of this body for an op. Arguments are the op's results and tensor operands, in order; the KV cache is
    /// the last among those it belongs to.
    pub fn call(self, site: &Site<'_>) -> Result<Call, Refusal> {
        let kv_type = self.kv.and_then(|kv| site.graph.kv().get(kv.group as usize)).map(|group| group.dtype);
        let writes = self.kv.is_some_and(|kv| kv.writes);
        let dtypes = |values: &mut dyn Iterator<Item = ir::Value>| -> Vec<DType> {
            let tensors = values.filter_map(|value| match site.graph.ty(value) {
                Type::Effect => None,
                _ => site.graph.tensor(value),
            });
            tensors.map(|ty: &TensorType| ty.dtype).collect()
        };
        let mut outputs = dtypes(&mut site.graph.results(site.op));
        let mut inputs = dtypes(&mut site.graph.operands(site.op).into_iter());
        if writes { &mut outputs } else { &mut inputs }.extend(kv_type);
        let device = DeviceCall {
            unit: self.unit(&outputs, &inputs),
            headers: self.headers,
            threads: self.threads,
            shared_bytes: self.shared_bytes,
            maps: self.maps,
            scalars: self.scalars.into_iter().map(|(_, dim)| dim).collect(),
        };
        let mut call = Call::grid(self.grid);
        (call.device, call.kv) = (Some(device), self.kv);
        Ok(call)
    }

    /// The text of the unit.
    fn unit(&self, outputs: &[DType], inputs: &[DType]) -> String {
        let mut declared = Vec::new();
        let mut pointers = |kind: &str, prefix: &str, dtypes: &[DType]| -> Vec<String> {
            let names = (0..dtypes.len()).map(|index| format!("{prefix}{index}"));
            let list: Vec<String> = names.collect();
            let types = dtypes.iter().map(|dtype| c_type(*dtype));
            declared.extend(types.zip(&list).map(|(ty, name)| format!("{kind}{ty}* {name}")));
            list
        };
        let out = pointers("", "out", outputs);
        let mut given = match self.outputs_in_array {
            true => vec![format!("{{{}}}", out.join(", "))],
            false => out,
        };
        let mut list = pointers("const ", "in", inputs);
        for place in &self.absent {
            list.insert(*place, "nullptr".to_owned());
        }
        match self.inputs_in_array {
            true => given.push(format!("{{{}}}", list.join(", "))),
            false => given.extend(list),
        }
        for index in 0..self.maps.len() {
            declared.push(format!("const __grid_constant__ smelt::TensorMap map{index}"));
            given.push(format!("&map{index}"));
        }
        for (name, _) in &self.scalars {
            declared.push(format!("int {name}"));
            given.push((*name).to_owned());
        }
        self.text(&declared, &given)
    }

    fn text(&self, declared: &[String], given: &[String]) -> String {
        let Body { name, include, instance, threads, preamble, .. } = self;
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "#include \"common/body.cuh\"\n#include \"{include}\"\n");
        text.push_str(preamble);
        let _ = writeln!(text, "using Body = {instance};");
        let _ = write!(text, "static_assert(Body::kThreads == {threads}");
        if self.shared_bytes > 0 {
            let _ = write!(text, " && Body::kSharedBytes == {}", self.shared_bytes);
        }
        let _ = write!(text, ");\n\nextern \"C\" __global__ void ");
        if self.cluster > 1 {
            let _ = write!(text, "__cluster_dims__({}, 1, 1) ", self.cluster);
        }
        // without the second bound ptxas targets its own occupancy, and spills to reach it
        let blocks = if self.says_blocks { "Body::kBlocks" } else { "1" };
        let _ = writeln!(text, "__launch_bounds__(Body::kThreads, {blocks})\n{name}({}) {{", declared.join(", "));
        let _ = writeln!(text, "  smelt::run(Body{{{}}});\n}}", given.join(", "));
        text
    }
}

/// A dtype as CUDA C spells it: `smelt::bf16`.
pub fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "smelt::f32",
        DType::F16 => "smelt::f16",
        DType::BF16 => "smelt::bf16",
        DType::I32 => "smelt::i32",
        DType::I8 => "smelt::i8",
        DType::F8E4M3 => "smelt::f8e4m3",
        DType::I4 => "smelt::i4",
    }
}

/// A floating-point template argument, exact to the last bit: `1e-5f`.
pub fn c_float(value: f32) -> String {
    format!("{value:e}f")
}
