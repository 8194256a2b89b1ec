//! The perplexity of calibrated formats, on the demo model and on the same with planted outliers. The results on the
//! whole held-out text are in `docs/accuracy.md`.

use std::path::{Path, PathBuf};

use smelt::eval::{Passage, WindowOptions, score};
use smelt::{
    ActivationScales, CalibrateOptions, CompileOptions, Dataset, Driver, Format, Llm, LoadOptions, PrecisionOptions,
    Quiet, Source, TargetChoice,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
/// Bytes that are scored, and the following bytes for calibration.
const BYTES: usize = 9000;

fn heldout() -> String {
    std::fs::read_to_string(Path::new(DEMO).join("heldout.txt")).unwrap()
}

fn on_cpu() -> TargetChoice {
    TargetChoice::Named("cpu".to_owned())
}

/// Calibrates a model on a text that is not scored; for GPTQ with a Hessian.
fn calibrate(model: &Path, folder: &Path, hessian: bool) -> PathBuf {
    let text = heldout();
    let (start, end) = (text.floor_char_boundary(BYTES), text.floor_char_boundary(3 * BYTES));
    let dataset = Dataset { path: PathBuf::from("heldout.txt"), text: text[start..end].to_owned(), lines: false };
    let out = folder.join("calibration.json");
    let options = CalibrateOptions { target: on_cpu(), hessian, ..CalibrateOptions::default() };
    let source = Source::open(model, &CompileOptions::default()).unwrap();
    Driver::new().calibrate(&source, &dataset, &out, &options, &mut Quiet).unwrap();
    out
}

fn perplexity(model: &Path, precision: PrecisionOptions) -> f64 {
    let text = heldout();
    // short windows: attention over long ones takes longer than all else, and is not quantized
    let windows = WindowOptions { context: Some(512), stride: None };
    let options = CompileOptions { target: on_cpu(), precision, ..CompileOptions::default() };
    let load = LoadOptions { compile: windows.compile_options(options), ..LoadOptions::default() };
    let mut llm = Llm::load_with(&Driver::new(), model, &load, &mut Quiet).unwrap();
    let passage = Passage::new(&llm, &text[..text.floor_char_boundary(BYTES)]).unwrap();
    let windows = windows.resolve(&llm, &passage).unwrap();
    score(&mut llm, &passage, windows, &mut |_, _, _| {}).unwrap().perplexity
}

/// The increase of a format's perplexity, in percent.
struct Increase<'a> {
    model: &'a Path,
    calibration: PathBuf,
    reference: f64,
}

impl Increase<'_> {
    fn of(&self, format: Format, activations: ActivationScales) -> f64 {
        let calibration = Some(self.calibration.clone());
        let precision =
            PrecisionOptions { linears: Some(format), activations, calibration, ..PrecisionOptions::default() };
        100.0 * (perplexity(self.model, precision) / self.reference - 1.0)
    }
}

#[test]
fn formats_keep_to_their_bounds_with_outliers_too() {
    use ActivationScales::{Dynamic, Static};
    let folder = tempfile::tempdir().unwrap();
    let planted = folder.path().join("planted");
    tests::plant_outliers(Path::new(DEMO), &planted).unwrap();
    let reference = perplexity(Path::new(DEMO), PrecisionOptions::default());
    assert_eq!(perplexity(&planted, PrecisionOptions::default()), reference, "outliers change no bit");
    // bounds of a text this short, and twice that with outliers
    for (model, times) in [(Path::new(DEMO), 1.0), (planted.as_path(), 2.0)] {
        let with_gptq = times == 1.0;
        let increase = Increase { model, calibration: calibrate(model, folder.path(), with_gptq), reference };
        let within = |format: Format, activations: ActivationScales, bound: f64| {
            let found = increase.of(format, activations);
            assert!(found < times * bound, "{format}, {activations}: {found:.2} %, expected below {times} * {bound} %");
            found
        };
        within(Format::Int8Smoothquant, Dynamic, 1.5);
        within(Format::Int8Smoothquant, Static, 1.5);
        within(Format::Fp8, Dynamic, 1.0);
        let awq = within(Format::Int4Awq, Dynamic, 5.0);
        let nearest = increase.of(Format::Int4, Dynamic);
        assert!(awq < 0.8 * nearest, "AWQ {awq:.2} %, to the nearest {nearest:.2} %");
        if with_gptq {
            let gptq = within(Format::Int4Gptq, Dynamic, 5.0);
            assert!(gptq < 0.8 * nearest, "GPTQ {gptq:.2} %, to the nearest {nearest:.2} %");
        }
    }
}
