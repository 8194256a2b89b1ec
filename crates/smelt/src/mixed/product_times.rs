//! Times of the products of a decode step, from a timing cache or measured here. A roofline covers bytes and
//! arithmetic, but not dequantization.

use std::collections::HashMap;

use codegen::cuda::Compiler;
use codegen::{Catalog, ProgramShape, Selection, Target, Timings, chosen};
use ir::{DType, Graph};
use passes::quantize::Format;
use plan::Executor;

use crate::product::{self, select_fixed};
use crate::tuning::known;
use crate::{Driver, Error, RunOptions, TimingOptions};

/// The sizes of a product, and its format.
type Product = (u64, u64, Option<Format>);

/// Dtypes of products before weights get their format.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProductTypes {
    pub activations: DType,
    pub weights: DType,
}

/// Requested times of products.
pub(super) struct ProductTimes {
    driver: Driver,
    catalog: Catalog,
    executor: Box<dyn Executor>,
    compiler: Option<Compiler>,
    /// This device's entries of a timing cache.
    known: Timings,
    types: ProductTypes,
    seconds: HashMap<Product, f64>,
}

impl ProductTimes {
    /// Nothing is measured yet.
    pub fn new(
        driver: &Driver,
        target: Target,
        types: ProductTypes,
        run: RunOptions,
        timing: Option<&TimingOptions>,
    ) -> Result<ProductTimes, Error> {
        let executor = driver.executor(target.name(), run)?;
        let known = known(timing, target, &executor.device())?;
        Ok(ProductTimes {
            catalog: driver.catalog(target).timed(known.clone()),
            known,
            compiler: target.is_gpu().then(|| driver.compiler()).transpose()?,
            driver: driver.clone(),
            executor,
            types,
            seconds: HashMap::new(),
        })
    }

    /// The time of a measured product.
    pub fn get(&self, outputs: u64, inputs: u64, format: Option<Format>) -> Option<f64> {
        self.seconds.get(&(outputs, inputs, format)).copied()
    }

    /// Measures a product of `rows` rows of activations, including their quantization, if any.
    pub fn measure(&mut self, rows: u64, outputs: u64, inputs: u64, format: Option<Format>) -> Result<(), Error> {
        if self.get(outputs, inputs, format).is_some() {
            return Ok(());
        }
        let (selection, programs) = self.select(&self.graph(rows, outputs, inputs, format)?)?;
        let mut nanoseconds = 0;
        for launch in chosen(&selection, &programs, 0) {
            nanoseconds += match launch.time(&self.known) {
                Some(known) => known,
                None => {
                    let outcomes = launch.measure(&self.catalog, self.executor.as_ref(), self.compiler.as_ref())?;
                    let times: Option<Vec<u64>> =
                        outcomes.into_values().map(|outcome| outcome.nanoseconds.ok()).collect();
                    let slow =
                        || Error::Unsupported(format!("no kernel is fast enough to be timed for {}", launch.op()));
                    times.ok_or_else(slow)?.into_iter().sum()
                }
            };
        }
        self.seconds.insert((outputs, inputs, format), nanoseconds as f64 / 1e9);
        Ok(())
    }

    fn select(&self, graph: &Graph) -> Result<(Selection, [ProgramShape; 1]), Error> {
        select_fixed(graph, &self.catalog, self.executor.target())
    }

    /// A single linear layer, as passes leave it.
    fn graph(&self, rows: u64, outputs: u64, inputs: u64, format: Option<Format>) -> Result<Graph, Error> {
        let ProductTypes { activations, weights } = self.types;
        let to = (activations != DType::F32).then_some(DType::F32);
        product::Product { rows, outputs, inputs, activations, weights, to, format, made: false }.graph(&self.driver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_takes_what_a_timing_cache_says_or_is_measured() {
        let types = ProductTypes { activations: DType::F32, weights: DType::BF16 };
        let mut times = ProductTimes::new(&Driver::new(), Target::Cpu, types, RunOptions::default(), None).unwrap();
        for format in Format::ALL.into_iter().map(Some).chain([None]) {
            times.measure(2, 64, 128, format).unwrap();
            assert!(times.get(64, 128, format).is_some_and(|seconds| 0.0 < seconds && seconds < 1.0), "{format:?}");
        }
        let (selection, programs) = times.select(&times.graph(1, 64, 128, Some(Format::Fp8)).unwrap()).unwrap();
        let launches = chosen(&selection, &programs, 0);
        assert_eq!(launches.len(), 2, "the quantizer of activations, and the product");
        for launch in &launches {
            let mut outcomes = launch.measure(&times.catalog, times.executor.as_ref(), None).unwrap();
            outcomes.values_mut().for_each(|outcome| outcome.nanoseconds = Ok(3_000));
            times.known.record(launch.op(), outcomes);
        }
        times.seconds.clear();
        times.measure(1, 64, 128, Some(Format::Fp8)).unwrap();
        assert_eq!(times.get(64, 128, Some(Format::Fp8)), Some(6e-6));
    }
}
