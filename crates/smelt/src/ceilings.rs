//! What a device does at most, as smelt's own kernels reach it: the rate of a streaming read, and those of products. What
//! cannot be measured is taken from the table of machines, with a note: ceilings are there for a reader, and nothing
//! that goes wrong here stops what they are measured for.

use codegen::cuda::Compiler;
use codegen::{Catalog, Measurable, Target, chosen, read_rate};
use passes::quantize::Format;
use plan::{DType, Executor, Machine};
use runtime::{CpuExecutor, CudaExecutor};
use serde::{Serialize, Serializer};

use crate::product::{Product, select_fixed};
use crate::{Driver, Error, Progress, RunOptions};

/// What a device does at most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// The device.
    pub device: String,
    /// Bytes per second of a streaming read.
    pub read_bytes_per_s: f64,
    /// How many bytes were read, where the rate was measured.
    pub read_bytes: Option<u64>,
    /// Where the rate of reading comes from.
    pub read_source: RateSource,
    /// The rates of products, one for each dtype.
    pub products: Vec<ProductCeiling>,
}

/// The rate of a product of two square matrices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProductCeiling {
    /// What is multiplied: the narrower of both sides.
    #[serde(serialize_with = "dtype_name")]
    pub dtype: DType,
    /// Additions and multiplications per second.
    pub flops_per_s: f64,
    /// Rows and columns of each matrix, where the rate was measured.
    pub size: Option<u64>,
    /// Where the rate comes from.
    pub source: RateSource,
}

/// Where a rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSource {
    /// One of smelt's kernels, on this device.
    Measured,
    /// The table of machines.
    Table,
}

/// How much ceilings are measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CeilingSizes {
    /// Bytes that are read, or a quarter of what is free where that is less.
    pub read_bytes: u64,
    /// Rows and columns of the matrices of a product; on a CPU, fewer where it would take long.
    pub product: u64,
}

/// Less than this is held by the caches of a GPU in good part.
const LEAST_GPU_READ: u64 = 256 << 20;
/// Operations of the launches that a product is timed by, and how many launches these may be.
const GPU_OPERATIONS: f64 = 16e12;
/// A product that every CPU has time for, about how many products are run to time one, and for how long.
const CPU_PROBE: u64 = 512;
const CPU_PRODUCTS: f64 = 12.0;
const CPU_SECONDS: f64 = 2.5;
const MOST_LAUNCHES: f64 = 64.0;

fn dtype_name<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.name())
}

impl RateSource {
    /// As tables print it.
    pub fn name(self) -> &'static str {
        match self {
            RateSource::Measured => "measured",
            RateSource::Table => "table",
        }
    }
}

impl CeilingSizes {
    /// Those by which devices of a target are compared.
    pub fn of_target(target: &str) -> CeilingSizes {
        match target.starts_with("sm_") {
            true => CeilingSizes { read_bytes: 8 << 30, product: 8192 },
            false => CeilingSizes { read_bytes: 1 << 30, product: 2048 },
        }
    }
}

impl Ceilings {
    /// What the table says of the machine that stands for a target.
    pub fn of_table(target: &str) -> Ceilings {
        let machine = Machine::of_target(target);
        let product =
            |(dtype, flops_per_s)| ProductCeiling { dtype, flops_per_s, size: None, source: RateSource::Table };
        let products: &[(DType, f64)] = match target.starts_with("sm_") {
            true => &[(DType::BF16, machine.flops_per_second), (DType::F8E4M3, machine.byte_flops_per_second)],
            false => &[(DType::F32, machine.f32_flops_per_second), (DType::BF16, machine.flops_per_second)],
        };
        Ceilings {
            device: machine.title.to_owned(),
            read_bytes_per_s: machine.bytes_per_second,
            read_bytes: None,
            read_source: RateSource::Table,
            products: products.iter().copied().map(product).collect(),
        }
    }

    /// The rate of products of a dtype.
    pub fn flops_per_s(&self, dtype: DType) -> Option<f64> {
        self.products.iter().find(|product| product.dtype == dtype).map(|product| product.flops_per_s)
    }

    /// The machine of a target with these rates in place of the table's.
    pub fn machine(&self, target: &str) -> Machine {
        let table = Machine::of_target(target);
        let rate = |dtype: DType, otherwise: f64| self.flops_per_s(dtype).unwrap_or(otherwise);
        let flops_per_second = rate(DType::BF16, table.flops_per_second);
        Machine {
            name: "measured",
            title: "this device as measured",
            bytes_per_second: self.read_bytes_per_s,
            flops_per_second,
            byte_flops_per_second: match target.starts_with("sm_") {
                true => rate(DType::F8E4M3, table.byte_flops_per_second),
                // codes are widened there
                false => flops_per_second,
            },
            f32_flops_per_second: rate(DType::F32, table.f32_flops_per_second),
            ..table
        }
    }

    /// Whether anything comes from the table.
    pub fn source(&self) -> RateSource {
        let mut products = self.products.iter();
        match self.read_source == RateSource::Measured && products.all(|rate| rate.source == RateSource::Measured) {
            true => RateSource::Measured,
            false => RateSource::Table,
        }
    }
}

impl Driver {
    /// Measures what the device for plans of a target does at most. Memory that it takes is given back.
    pub fn ceilings(&self, target: &str, run: RunOptions, progress: &mut dyn Progress) -> Ceilings {
        self.ceilings_with(target, run, CeilingSizes::of_target(target), progress)
    }

    /// The same with other sizes.
    pub fn ceilings_with(
        &self,
        target: &str,
        run: RunOptions,
        sizes: CeilingSizes,
        progress: &mut dyn Progress,
    ) -> Ceilings {
        progress.phase("measure ceilings");
        let mut ceilings = Ceilings::of_table(target);
        let measured = match target.parse() {
            Ok(Target::Cpu) => self.ceilings_of_cpu(run, sizes, &mut ceilings),
            Ok(Target::Sm90a) => self.ceilings_of_gpu(sizes, &mut ceilings),
            Err(_) => Err(Error::Unsupported(format!("nothing runs plans for `{target}` here"))),
        };
        let problems = match measured {
            Ok(problems) => problems,
            Err(problem) => vec![problem],
        };
        for problem in problems {
            let problem = problem.to_string();
            let reason = problem.lines().next().unwrap_or_default();
            progress.note(&format!("a ceiling is not measured but taken from a table: {reason}"));
        }
        ceilings
    }

    /// Measures with a CPU; returns what failed.
    fn ceilings_of_cpu(
        &self,
        run: RunOptions,
        sizes: CeilingSizes,
        ceilings: &mut Ceilings,
    ) -> Result<Vec<Error>, Error> {
        let executor = CpuExecutor::new(run.threads)?;
        ceilings.device = executor.device();
        let free = runtime::cpu::available_memory().unwrap_or(u64::MAX);
        let bytes = (free / 4).min(sizes.read_bytes);
        let mut problems = Vec::new();
        match executor.install(|| runtime::cpu::read_bandwidth(bytes)) {
            Ok(rate) => ceilings.read(rate, bytes),
            Err(reason) => problems.push(Error::DoesNotFit(reason)),
        }
        // the machine may be slow, or busy: a small product says how large a one it has time for
        let small = sizes.product.min(CPU_PROBE);
        let probe = product_rate(&executor, None, small, &OF_CPU[1])?;
        let has_time = |size: &u64| CPU_PRODUCTS * operations(*size) < probe * CPU_SECONDS;
        let halves = std::iter::successors(Some(sizes.product), |size| Some(size / 2));
        let size = halves.take_while(|size| *size > small).find(has_time).unwrap_or(small);
        products(&executor, None, (size, &OF_CPU), ceilings, &mut problems);
        Ok(problems)
    }

    /// Measures with a GPU; returns what failed.
    fn ceilings_of_gpu(&self, sizes: CeilingSizes, ceilings: &mut Ceilings) -> Result<Vec<Error>, Error> {
        let executor = CudaExecutor::new()?;
        ceilings.device = executor.device();
        let compiler = self.compiler()?;
        let bytes = (executor.free_memory()? / 4).min(sizes.read_bytes);
        let mut problems = Vec::new();
        match bytes {
            bytes if bytes < LEAST_GPU_READ.min(sizes.read_bytes) => {
                problems.push(Error::DoesNotFit(format!("a read of {bytes} bytes shows what caches do, not memory")));
            }
            bytes => match read_rate(&executor, &compiler, bytes) {
                Ok((rate, bytes)) => ceilings.read(rate, bytes),
                Err(error) => problems.push(error.into()),
            },
        }
        products(&executor, Some(&compiler), (sizes.product, &OF_GPU), ceilings, &mut problems);
        Ok(problems)
    }
}

/// Replaces the rates of products, in their order, by what is measured.
fn products(
    executor: &dyn Executor,
    compiler: Option<&Compiler>,
    (size, wanted): (u64, &[Measured]),
    ceilings: &mut Ceilings,
    problems: &mut Vec<Error>,
) {
    for (wanted, ceiling) in wanted.iter().zip(&mut ceilings.products) {
        match product_rate(executor, compiler, size, wanted) {
            Ok(rate) => {
                let (size, source) = (Some(size), RateSource::Measured);
                *ceiling = ProductCeiling { dtype: ceiling.dtype, flops_per_s: rate, size, source };
            }
            Err(error) => problems.push(error),
        }
    }
}

/// Additions and multiplications of a product of square matrices.
fn operations(size: u64) -> f64 {
    2.0 * (size as f64).powi(3)
}

/// Additions and multiplications per second of a square product, by the kernel that a plan would have for it.
fn product_rate(
    executor: &dyn Executor,
    compiler: Option<&Compiler>,
    size: u64,
    wanted: &Measured,
) -> Result<f64, Error> {
    let target = executor.target().parse();
    let target: Target = target.map_err(|error: codegen::UnknownTarget| Error::Unsupported(error.to_string()))?;
    with_product(target, size, wanted, |catalog, product| {
        let more = (wanted.operations / operations(size)).clamp(1.0, MOST_LAUNCHES) as u32;
        let time = product.best(catalog, executor, compiler, more)?;
        Ok(operations(size) / time.as_secs_f64())
    })
}

/// The launch of a square product, by the passes and kernels of smelt, not those that a user brings.
fn with_product<R>(
    target: Target,
    size: u64,
    wanted: &Measured,
    with: impl FnOnce(&Catalog, &Measurable<'_>) -> Result<R, Error>,
) -> Result<R, Error> {
    let Measured { activations, weights, format, .. } = *wanted;
    let [rows, outputs, inputs] = [size; 3];
    let product = Product { rows, outputs, inputs, activations, weights, to: None, format, made: true };
    let (graph, catalog) = (product.graph(&Driver::new())?, target.catalog());
    let (selection, programs) = select_fixed(&graph, &catalog, target.name())?;
    // what makes the activations, or codes of them, is no part of the product
    let launches = chosen(&selection, &programs, 0);
    let product = launches.iter().find(|launch| launch.op().contains("linear"));
    with(&catalog, product.ok_or_else(|| Error::Unsupported("a product is no launch of its own".to_owned()))?)
}

/// A product that is measured.
#[derive(Clone, Copy)]
struct Measured {
    activations: DType,
    weights: DType,
    format: Option<Format>,
    /// Operations of all its launches, about.
    operations: f64,
}

/// Those of a GPU, and of a CPU, in the order of [`Ceilings::of_table`].
const OF_GPU: [Measured; 2] = {
    let half = Measured { activations: DType::BF16, weights: DType::BF16, format: None, operations: GPU_OPERATIONS };
    [half, Measured { format: Some(Format::Fp8), ..half }]
};
const OF_CPU: [Measured; 2] = {
    // a launch takes long enough to be timed alone
    let single = Measured { activations: DType::F32, weights: DType::F32, format: None, operations: 0.0 };
    [single, Measured { weights: DType::BF16, ..single }]
};

impl Ceilings {
    fn read(&mut self, bytes_per_s: f64, bytes: u64) {
        self.read_bytes_per_s = bytes_per_s;
        self.read_bytes = Some(bytes);
        self.read_source = RateSource::Measured;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Notes(Vec<String>);

    impl Progress for Notes {
        fn phase(&mut self, _: &str) {}
        fn weights(&mut self, _: u64, _: u64) {}
        fn note(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
    }

    const TINY: CeilingSizes = CeilingSizes { read_bytes: 1 << 20, product: 96 };

    #[test]
    fn a_cpu_is_measured_with_its_own_kernels() {
        let mut notes = Notes(Vec::new());
        let ceilings = Driver::new().ceilings_with("cpu", RunOptions::default(), TINY, &mut notes);
        assert_eq!(notes.0, Vec::<String>::new());
        assert_eq!((ceilings.source(), ceilings.read_bytes), (RateSource::Measured, Some(1 << 20)));
        assert!(ceilings.read_bytes_per_s > 0.0 && ceilings.read_bytes_per_s.is_finite());
        let dtypes: Vec<DType> = ceilings.products.iter().map(|product| product.dtype).collect();
        assert_eq!(dtypes, [DType::F32, DType::BF16]);
        assert!(ceilings.products.iter().all(|product| product.flops_per_s > 0.0 && product.size == Some(96)));
        let machine = ceilings.machine("cpu");
        assert_eq!(machine.bytes_per_second, ceilings.read_bytes_per_s);
        assert_eq!(Some(machine.f32_flops_per_second), ceilings.flops_per_s(DType::F32));
    }

    /// A kernel that is chosen for want of a better one would be no ceiling.
    #[test]
    fn products_are_those_of_tensor_cores() {
        for (wanted, kernel) in OF_GPU.iter().zip(["linear_wgmma", "linear_wgmma_quantized"]) {
            let found = with_product(Target::Sm90a, 8192, wanted, |_, launch| Ok(launch.kernel())).unwrap();
            assert_eq!(found, kernel);
        }
    }

    #[test]
    fn what_is_not_measured_comes_from_the_table_and_is_said() {
        for target in ["sm_90a", "abacus"] {
            let mut notes = Notes(Vec::new());
            // without a driver, or with nothing that compiles
            let driver = Driver::new().cuda_folders(Vec::new);
            let ceilings = driver.ceilings_with(target, RunOptions::default(), TINY, &mut notes);
            if ceilings.source() == RateSource::Table {
                let rest =
                    notes.0.iter().all(|note| note.starts_with("a ceiling is not measured but taken from a table"));
                assert!(!notes.0.is_empty() && rest, "{notes:?}", notes = notes.0);
            }
            assert!(ceilings.read_bytes_per_s > 1e10);
        }
        let json = serde_json::to_value(Ceilings::of_table("sm_90a")).unwrap();
        assert_eq!(json["read_source"], "table");
        assert_eq!(json["products"][1]["dtype"], "f8e4m3");
    }
}
