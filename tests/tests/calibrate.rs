//! Calibration: it observes what the graph computes, and a stopped, resumed or merged run ends with the same bytes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use frontend::{Checkpoint, ImportOptions};
use ir::{DerivedWeights, Environment, HostTensor, KvState, evaluate};
use passes::calibration::{Activations, Calibration, InsertObservers, TensorStats};
use passes::{Pass, PassContext};
use plan::DType;
use smelt::{
    ActivationFile, CalibrateOptions, CalibrateReport, CompileOptions, Dataset, Driver, Error, Progress, Quiet, Source,
    TargetChoice, activations_path, merge_calibrations, read_calibration,
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");

fn heldout(bytes: usize) -> String {
    let text = std::fs::read_to_string(Path::new(DEMO).join("heldout.txt")).unwrap();
    text[..text.floor_char_boundary(bytes)].to_owned()
}

fn dataset(text: &str) -> Dataset {
    Dataset { path: PathBuf::from("some.txt"), text: text.to_owned(), lines: false }
}

fn options(hessian: bool) -> CalibrateOptions {
    let target = TargetChoice::Named("cpu".to_owned());
    CalibrateOptions { target, max_len: 32, rows: 20, hessian, ..CalibrateOptions::default() }
}

/// A checkpoint with its own weights.
fn opened(dir: impl AsRef<Path>) -> Source {
    Source::open(dir, &CompileOptions::default()).unwrap()
}

fn calibrate(
    text: &str,
    out: &Path,
    options: &CalibrateOptions,
    progress: &mut dyn Progress,
) -> Result<CalibrateReport, Error> {
    Driver::new().calibrate(&opened(DEMO), &dataset(text), out, options, progress)
}

/// Both files of a calibration.
fn files(out: &Path) -> (String, Vec<u8>) {
    (std::fs::read_to_string(out).unwrap(), std::fs::read(activations_path(out)).unwrap())
}

#[test]
fn one_sample_is_what_the_interpreter_sees() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("c.json");
    let report = calibrate("This function returns", &out, &options(true), &mut Quiet).unwrap();
    let tokens = report.tokens as usize;
    assert!(report.samples == 1 && tokens < 32, "{report:?}");
    let calibration = read_calibration(&out).unwrap();

    let checkpoint = Checkpoint::open(Path::new(DEMO)).unwrap();
    let import = ImportOptions {
        weights: DType::BF16,
        activations: DType::F32,
        kv: DType::BF16,
        block_tokens: 64,
        max_num_tokens: 32,
        max_batch_size: 1,
        max_logit_rows: 32,
        max_seq_len: 32,
        sampled_ids: None,
    };
    let mut graph = checkpoint.graph(&import).unwrap();
    let own = graph.outputs().len();
    InsertObservers.run(&mut graph, &PassContext::new(&DerivedWeights::over(&checkpoint))).unwrap();
    let llm = smelt::Llm::load(DEMO).unwrap();
    // the demo's tokenizer puts a token in front of every text
    let ids = llm.tokens(&"This function returns".into()).unwrap();
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let count = tokens as i32;
    let ints = |shape: Vec<usize>, values: Vec<i32>| HostTensor::i32(shape, values);
    let inputs = HashMap::from([
        ("tokens".to_owned(), ints(vec![tokens], ids)),
        ("positions".to_owned(), ints(vec![tokens], (0..count).collect())),
        ("query_starts".to_owned(), ints(vec![2], vec![0, count])),
        ("block_table".to_owned(), ints(vec![1, 1], vec![0])),
        ("rows".to_owned(), ints(vec![tokens], (0..count).collect())),
    ]);
    let size = |name: &str| if name == "B" { 1 } else { tokens as u64 };
    let symbols = graph.symbols().iter().map(|decl| (decl.symbol.clone(), size(decl.symbol.name()))).collect();
    let env = Environment { weights: &checkpoint, symbols, inputs };
    let values = evaluate(&graph, &env, &mut KvState::new(graph.kv())).unwrap();

    let activations = ActivationFile::open(&activations_path(&out)).unwrap();
    assert_eq!(calibration.tensors.len(), graph.outputs().len() - own);
    for (output, value) in graph.outputs().iter().zip(&values).skip(own) {
        let name = &output.name;
        let (found, channels) = (&calibration.tensors[name], value.width());
        let expected = TensorStats::of(channels, value.floats());
        // a key or value near a rounding boundary of the cache may be rounded either way: a unit of bf16
        let near = |a: f32, b: f32| (a - b).abs() <= 4e-3 * b.abs().max(1e-2);
        assert!(near(found.min, expected.min) && near(found.max, expected.max), "{name}");
        for (a, b) in found.channel_absmax.iter().zip(&expected.channel_absmax) {
            assert!(near(*a, *b), "{name}: {a} {b}");
        }
        let rows = activations.rows(name).unwrap();
        assert_eq!((rows.len(), rows.channels), (tokens.min(20), channels), "{name}");
        let Some(hessian) = activations.hessian(name) else { continue };
        for (channel, square) in expected.channel_mean_square.iter().enumerate() {
            assert!(near(hessian[channel * (channels + 1)], *square), "{name}");
        }
    }
    // inputs of linear layers have a Hessian, keys and values have none
    assert!(activations.hessian("layers.0.input_norm").is_some() && activations.hessian("layers.0.attn.v").is_none());
}

/// Stops a run, like a power cut, after this many pieces.
struct StopAt(u64);

impl Progress for StopAt {
    fn phase(&mut self, _: &str) {}
    fn weights(&mut self, _: u64, _: u64) {}
    fn items(&mut self, done: u64, _: u64) {
        assert!(done < self.0, "stopped at {done}");
    }
}

#[test]
fn a_stopped_run_goes_on_and_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, stopped) = (folder.path().join("whole.json"), folder.path().join("stopped.json"));
    let text = heldout(1200);
    for hessian in [false, true] {
        let options = CalibrateOptions { save_every: Duration::ZERO, ..options(hessian) };
        let report = calibrate(&text, &whole, &options, &mut Quiet).unwrap();
        assert!(report.samples > 4 && report.resumed_layers == 0, "{report:?}");
        // in the first layer, between two layers, and within the third
        for stop in [2, report.samples, 2 * report.samples + 3] {
            let run = || calibrate(&text, &stopped, &options, &mut StopAt(stop));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err() && !stopped.exists());
        }
        let report = calibrate(&text, &stopped, &options, &mut Quiet).unwrap();
        assert_eq!(report.resumed_layers, 2);
        assert!(files(&whole) == files(&stopped), "hessian {hessian}");
        assert!(!folder.path().join("stopped.json.partial").exists());
        std::fs::remove_file(&stopped).unwrap();
    }
}

#[test]
fn a_stopped_run_over_another_text_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, other) = (folder.path().join("whole.json"), folder.path().join("other.json"));
    let options = CalibrateOptions { save_every: Duration::ZERO, ..options(false) };
    let text = heldout(600);
    calibrate(&text, &whole, &options, &mut Quiet).unwrap();
    let run = || calibrate("fn main() {}", &other, &options, &mut StopAt(3));
    assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    let report = calibrate(&text, &other, &options, &mut Quiet).unwrap();
    assert!(report.resumed_layers == 0 && files(&whole) == files(&other));
}

/// Starts the same run again in the middle of one.
struct Twice<'a>(&'a Path, Vec<String>);

impl Progress for Twice<'_> {
    fn phase(&mut self, _: &str) {}
    fn weights(&mut self, _: u64, _: u64) {}
    fn items(&mut self, done: u64, _: u64) {
        if done == 3 {
            let second = calibrate("text", self.0, &options(false), &mut Quiet).unwrap_err();
            let merged = merge_calibrations(&[PathBuf::from("a.json")], self.0).unwrap_err();
            self.1.extend([second, merged].map(|error| error.to_string()));
        }
    }
}

#[test]
fn a_place_is_written_by_one_run_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let [alone, out] = ["alone.json", "c.json"].map(|name| folder.path().join(name));
    calibrate("This function returns", &alone, &options(false), &mut Quiet).unwrap();
    let mut twice = Twice(&out, Vec::new());
    calibrate("This function returns", &out, &options(false), &mut twice).unwrap();
    assert!(twice.1.len() == 2 && twice.1.iter().all(|error| error.contains("c.json: another run is writing it")));
    assert!(files(&alone) == files(&out));
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["alone.json", "alone.safetensors", "c.json", "c.safetensors"]);
}

#[test]
fn merged_files_are_what_one_run_over_both_texts_makes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let lines = |text: &[String]| {
        let lines: Vec<String> = text.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
        Dataset { path: PathBuf::from("some.jsonl"), text: lines.join("\n"), lines: true }
    };
    let text = heldout(1500);
    let pieces: Vec<String> = text.split("\n\n").map(str::to_owned).filter(|piece| piece.len() > 3).collect();
    let run = |text: &[String], out: &str| {
        Driver::new().calibrate(&opened(DEMO), &lines(text), &path(out), &options(true), &mut Quiet).unwrap()
    };
    let (a, b) = pieces.split_at(pieces.len() / 2);
    run(a, "a.json");
    run(b, "b.json");
    run(&pieces, "both.json");
    assert!(merge_calibrations(&[path("a.json"), path("b.json")], &path("merged.json")).unwrap());
    for twice in [&["a.json", "a.json"][..], &["a.json", "b.json", "copy.json"]] {
        std::fs::copy(path("a.json"), path("copy.json")).unwrap();
        let files: Vec<PathBuf> = twice.iter().map(|name| path(name)).collect();
        let error = merge_calibrations(&files, &path("no.json")).unwrap_err().to_string();
        assert!(error.contains("are of the same samples, which would count twice"), "{error}");
    }
    let (merged, both) =
        (read_calibration(&path("merged.json")).unwrap(), read_calibration(&path("both.json")).unwrap());
    assert_eq!((merged.samples, merged.tokens), (both.samples, both.tokens));
    for (name, stats) in &both.tensors {
        let found = &merged.tensors[name];
        assert_eq!((&found.histogram, &found.token_absmax), (&stats.histogram, &stats.token_absmax), "{name}");
        assert_eq!((found.min, found.max, &found.channel_absmax), (stats.min, stats.max, &stats.channel_absmax));
        for (a, b) in found.channel_mean_square.iter().zip(&stats.channel_mean_square) {
            assert!((a - b).abs() <= 1e-5 * b, "{name}: {a} {b}");
        }
    }
    let open = |name: &str| ActivationFile::open(&activations_path(&path(name))).unwrap();
    let (merged, both) = (open("merged.json"), open("both.json"));
    for name in ["layers.0.input_norm", "layers.5.mlp.gated", "norm.rows"] {
        assert_eq!(merged.rows(name).unwrap().values, both.rows(name).unwrap().values, "{name}");
        for (a, b) in merged.hessian(name).unwrap().iter().zip(both.hessian(name).unwrap()) {
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{name}: {a} {b}");
        }
    }
}

#[test]
fn what_is_no_number_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(DEMO).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let info = metadata.info("model.layers.2.post_attention_layernorm.weight").unwrap();
    let at = header + 8 + info.data_offsets.0;
    bytes[at..at + 2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    let out = folder.path().join("c.json");
    let run = Driver::new().calibrate(&opened(folder.path()), &dataset("text"), &out, &options(false), &mut Quiet);
    let error = run.unwrap_err();
    assert!(error.to_string().starts_with("`layers.2.post_norm`: "), "{error}");
    assert!(error.to_string().contains("are not finite in sample 0"), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_calibration_knows_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("c.json");
    calibrate("text", &out, &options(false), &mut Quiet).unwrap();
    let calibration: Calibration = read_calibration(&out).unwrap();
    smelt::check_calibration(&calibration, &Checkpoint::open(Path::new(DEMO)).unwrap()).unwrap();
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracle/llama-mha");
    let error = smelt::check_calibration(&calibration, &Checkpoint::open(&other).unwrap()).unwrap_err();
    assert!(error.to_string().contains("calibrate this model"), "{error}");
}
