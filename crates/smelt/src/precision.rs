//! Options of precision as passes, with the calibration that those need.

use std::path::PathBuf;
use std::sync::Arc;

use frontend::{Checkpoint, KvReach};
use ir::{DType, DerivedWeights, Graph};
use passes::calibration::{Calibration, observed};
use passes::quantize::{Assignment, Format, KvMagnitudes, LinearInfo, ScaleKv, linears};
use passes::{EliminateCommonSubexpressions, Pass, PassContext, Pipeline, Slot};
use plan::TextFile;
use plan::input::{self, Changed, DATA_BYTES, InputFile, Stamp};

use crate::calibrate::{ActivationFile, activations_path, check_calibration};
use crate::source::file_input;
use crate::{Error, PrecisionOptions};

/// The name of the format table in a plan.
pub const PRECISION_FILE: &str = "precision.map";

/// The format of each linear layer of an imported graph.
pub(crate) struct Formats {
    linears: Vec<LinearInfo>,
    pub assignment: Assignment,
}

impl Formats {
    /// The formats that the options assign.
    pub fn of(graph: &Graph, options: &PrecisionOptions) -> Result<Formats, Error> {
        let linears = linears(graph);
        let mut assignment = Assignment::uniform(&linears, options.linears, options.head);
        if let Some(map) = &options.map {
            let edited = assignment.edit(&map.text, &linears);
            edited.map_err(|reason| Error::BadInput(format!("{}: {reason}", map.path.display())))?;
        }
        Ok(Formats { linears, assignment })
    }

    /// The table as a file of the plan, if any is quantized.
    pub fn file(&self) -> Option<TextFile> {
        let bytes = || self.assignment.table(&self.linears).into_bytes();
        let quantized = !self.assignment.formats.is_empty();
        quantized.then(|| TextFile { name: PRECISION_FILE.to_owned(), bytes: bytes() })
    }

    /// The quantization passes, checked to be applicable.
    pub fn passes(
        &self,
        graph: &Graph,
        options: &PrecisionOptions,
        checkpoint: &Checkpoint,
        calibrated: Option<&Calibrated>,
    ) -> Result<Vec<Arc<dyn Pass>>, Error> {
        let Formats { linears, assignment } = self;
        let mut passes = assignment.passes(options.activations);
        if let Some(pass) = scale_kv(graph, options.kv, checkpoint, calibrated)? {
            // first: scales are folded into weights before those are quantized
            passes.insert(0, pass);
        }
        let needs = |format: &Format| format.needs_calibration(options.activations);
        if let Some(format) = assignment.formats.values().find(|format| needs(format)) {
            let Some(calibrated) = calibrated else { return Err(uncalibrated(format.name())) };
            let looked_at = |linear: &LinearInfo| calibrated.calibration.tensors.contains_key(&linear.input);
            let needed = |linear: &&LinearInfo| assignment.formats.get(&linear.name).is_some_and(needs);
            if let Some(linear) = linears.iter().filter(needed).find(|linear| !looked_at(linear)) {
                let (path, input) = (calibrated.path.display(), &linear.input);
                let reader = &linear.name;
                return Err(Error::BadInput(format!("{path}: does not contain `{input}`, which `{reader}` reads")));
            }
        }
        Ok(passes)
    }
}

/// The pass that sets KV cache scales: those of the calibration, else those of the checkpoint. Without either there is
/// none: E4M3 covers 2^-9 to 448, but integers have too few steps for values around 1.
fn scale_kv(
    graph: &Graph,
    kv: Option<DType>,
    checkpoint: &Checkpoint,
    calibrated: Option<&Calibrated>,
) -> Result<Option<Arc<dyn Pass>>, Error> {
    if !kv.is_some_and(DType::is_code) {
        return Ok(None);
    }
    let Some(calibrated) = calibrated else {
        let known = checkpoint.kv_reach();
        let complete = |reach: &KvReach| reach.keys.is_some() && reach.values.is_some();
        let layers = checkpoint.config().layers as usize;
        if kv == Some(DType::I8) && (known.len() < layers || !known.values().all(complete)) {
            return Err(uncalibrated("a KV cache of int8"));
        }
        let magnitudes = |reach: KvReach| KvMagnitudes { keys: reach.keys, values: reach.values };
        let known = known.iter().map(|(layer, reach)| (*layer, magnitudes(reach.clone())));
        let pass = || Arc::new(ScaleKv::known(known.collect())) as Arc<dyn Pass>;
        return Ok((!checkpoint.kv_reach().is_empty()).then(pass));
    };
    let mut kept = observed(graph).into_iter().filter(|seen| !seen.by_linear).map(|seen| graph.value_name(seen.value));
    match kept.find(|name| !calibrated.calibration.tensors.contains_key(*name)) {
        Some(name) => Err(Error::BadInput(format!(
            "{}: does not contain `{name}`, which the KV cache stores",
            calibrated.path.display()
        ))),
        None => Ok(Some(Arc::new(ScaleKv::default()))),
    }
}

/// The error for a missing calibration.
pub(crate) fn uncalibrated(what: &str) -> Error {
    Error::Usage(format!(
        "{what} requires a calibration: `smelt calibrate DIR --text FILE -o calibration.json` makes one, \
         `--calibration calibration.json` uses it"
    ))
}

/// The pipeline with these passes.
pub(crate) fn quantizing(pipeline: Pipeline, passes: Vec<Arc<dyn Pass>>) -> Pipeline {
    if passes.is_empty() {
        return pipeline;
    }
    let pipeline = passes.into_iter().fold(pipeline, |pipeline, pass| pipeline.with(Slot::BeforeFusion, pass));
    // linear layers with the same input quantize it alike
    pipeline.with(Slot::BeforeFusion, Arc::new(EliminateCommonSubexpressions))
}

/// Activation statistics of a model.
pub(crate) struct Calibrated {
    path: PathBuf,
    stamp: Stamp,
    text: String,
    calibration: Calibration,
    activations: ActivationFile,
}

impl Calibrated {
    /// Reads the calibration of the options, which must be of this model, and its activations file.
    pub fn open(options: &PrecisionOptions, checkpoint: &Checkpoint) -> Result<Option<Calibrated>, Error> {
        let Some(path) = options.calibration.clone() else { return Ok(None) };
        let io = |error| Error::Io { path: path.clone(), error };
        let file = InputFile::open(&path).map_err(io)?;
        let text = file.read(DATA_BYTES).and_then(input::text).map_err(io)?;
        let named = |reason: String| Error::BadInput(format!("{}: {reason}", path.display()));
        let calibration = Calibration::parse(&text).map_err(|error| named(error.to_string()))?;
        check_calibration(&calibration, checkpoint).map_err(|error| named(error.to_string()))?;
        let activations = ActivationFile::open(&activations_path(&path))?;
        if activations.model() != calibration.model {
            let beside = activations.path().display();
            return Err(Error::BadInput(format!("{beside}: of another model than {}", path.display())));
        }
        let stamp = file.stamp().clone();
        Ok(Some(Calibrated { path, stamp, text, calibration, activations }))
    }

    /// Whether both files are unchanged.
    pub fn check_unchanged(&self) -> Result<(), Changed> {
        self.stamp.check()?;
        self.activations.check_unchanged()
    }

    /// The part that passes use.
    pub fn context<'a>(calibrated: Option<&'a Calibrated>, weights: &'a DerivedWeights<'a>) -> PassContext<'a> {
        let context = PassContext::new(weights);
        match calibrated {
            Some(calibrated) => context.calibrated(&calibrated.calibration, &calibrated.activations),
            None => context,
        }
    }

    /// The files as inputs of a plan.
    pub fn inputs(&self) -> [plan::Input; 2] {
        let of = file_input;
        [of(&self.path, self.text.as_bytes()), of(self.activations.path(), self.activations.contents())]
    }
}
