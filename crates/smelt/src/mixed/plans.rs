//! Plans of one checkpoint that differ in formats alone.

use frontend::ImportOptions;
use passes::quantize::{Assignment, LinearInfo, linears};

use super::product_times::ProductTypes;
use super::{Group, MixedOptions};
use crate::eval::WindowOptions;
use crate::precision::Calibrated;
use crate::{
    Compilation, CompileOptions, Driver, Error, Llm, LoadOptions, PrecisionMap, PrecisionOptions, Quiet, RunOptions,
    Source,
};

/// Compiles and loads plans for one search.
pub(super) struct Plans<'a> {
    pub driver: &'a Driver,
    pub source: &'a Source,
    /// Those of the reference.
    pub options: CompileOptions,
    /// Other options: formats of lm_head and the KV cache, and the calibration.
    pub precision: PrecisionOptions,
    batch: u32,
    run: RunOptions,
}

/// The model before anything is chosen.
pub(super) struct Model {
    /// Its linear layers by input, without formats.
    pub groups: Vec<Group>,
    /// Linear layers that are not part of the search.
    pub heads: Vec<LinearInfo>,
    /// Dtypes of their products.
    pub types: ProductTypes,
}

impl<'a> Plans<'a> {
    pub fn new(driver: &'a Driver, source: &'a Source, options: &CompileOptions, mixed: &MixedOptions) -> Plans<'a> {
        let precision = options.precision.clone();
        let options = CompileOptions { precision: PrecisionOptions::default(), ..options.clone() };
        Plans { driver, source, options, precision, batch: mixed.batch, run: mixed.run }
    }

    /// The plan at the checkpoint's own precision.
    pub fn reference(&self) -> Result<Llm, Error> {
        self.compile(PrecisionOptions::default())
    }

    /// A plan with these formats of linear layers, and nothing else quantized.
    pub fn of_linears(&self, assignment: &Assignment) -> Result<Llm, Error> {
        self.load(assignment, PrecisionOptions::default())
    }

    /// The same with the requested formats of lm_head and the KV cache.
    pub fn whole(&self, assignment: &Assignment) -> Result<Llm, Error> {
        let PrecisionOptions { head, kv, .. } = self.precision;
        self.load(assignment, PrecisionOptions { head, kv, ..PrecisionOptions::default() })
    }

    /// Whether [`Plans::whole`] differs from [`Plans::of_linears`].
    pub fn beyond_linears(&self) -> bool {
        self.precision.head.is_some() || self.precision.kv.is_some()
    }

    /// Everything besides the text that decides the effect of a format on the logits.
    pub fn decisive(&self, target: &str) -> Result<String, Error> {
        let CompileOptions { dtype, weights, ignored_tensors, disabled_passes, bisect_limit, rewrites, .. } =
            &self.options;
        let checkpoint = &self.source.checkpoint;
        let calibration = Calibrated::open(&self.precision, checkpoint)?.map(|calibrated| calibrated.inputs());
        let (model, activations) = (checkpoint.fingerprint(), self.precision.activations);
        Ok(format!(
            "{model} {target} {dtype:?} {weights:?} {ignored_tensors:?} {disabled_passes:?} {bisect_limit:?} {rewrites:?} \
             {activations} {calibration:?}"
        ))
    }

    /// The linear layers by input, and lm_head.
    pub fn model(&self) -> Result<Model, Error> {
        let mut quiet = Quiet;
        let imported = Compilation::new(self.driver, self.source, &self.options, &mut quiet)?.import()?;
        let mut groups: Vec<Group> = Vec::new();
        let (heads, linears): (Vec<LinearInfo>, Vec<LinearInfo>) =
            linears(imported.graph()).into_iter().partition(|linear| linear.head);
        for linear in linears {
            match groups.iter_mut().find(|group| group.linears[0].input == linear.input) {
                Some(group) => group.linears.push(linear),
                None => groups.push(Group { linears: vec![linear], formats: Vec::new() }),
            }
        }
        if groups.is_empty() {
            return Err(Error::Unsupported("the model has no linear layers to choose formats for".to_owned()));
        }
        let ImportOptions { activations, weights, .. } = imported.job.import_options();
        let types = ProductTypes { activations: *activations, weights: *weights };
        Ok(Model { groups, heads, types })
    }

    fn load(&self, assignment: &Assignment, other: PrecisionOptions) -> Result<Llm, Error> {
        let map = Some(PrecisionMap::of(&assignment.formats));
        let PrecisionOptions { activations, calibration, .. } = self.precision.clone();
        self.compile(PrecisionOptions { map, activations, calibration, ..other })
    }

    fn compile(&self, precision: PrecisionOptions) -> Result<Llm, Error> {
        let batch = self.options.max_batch_size.unwrap_or(1).max(self.batch);
        let compile = CompileOptions {
            precision,
            max_batch_size: Some(batch),
            ..WindowOptions::default().compile_options(self.options.clone())
        };
        Llm::compile(
            self.driver,
            self.source,
            &LoadOptions { compile, run: self.run, ..LoadOptions::default() },
            &mut Quiet,
        )
    }
}
