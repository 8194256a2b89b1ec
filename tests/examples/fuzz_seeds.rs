//! Writes fuzzing seeds to a directory: the text of every case, small plans for each target, and the words of the IR as
//! a dictionary. `cargo run -p tests --example fuzz_seeds -- fuzz/corpus`

use std::fs;
use std::path::{Path, PathBuf};

use codegen::Target;
use ir::{OpSet, Stage};
use passes::pipeline;
use plan::PlanFile;
use tests::{Case, SeededWeights, cases, lower, run_passes};

/// Cases whose plans are written, by index: neighbours are similar.
const EVERY: usize = 7;

fn main() -> Result<(), String> {
    let folder = std::env::args().nth(1).map(PathBuf::from).ok_or("expected a folder to write to")?;
    let (texts, plans) = (folder.join("ir_text"), folder.join("plan_file"));
    for folder in [&texts, &plans] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let cases = cases()?;
    for case in &cases {
        write(&texts.join(case.name.replace('/', "-")), &case.text)?;
    }
    let whole = cases.iter().filter(|case| ["run", "trace", "cuda"].contains(&case.command.as_str()));
    let mut written = 0;
    for case in whole.step_by(EVERY) {
        for target in Target::ALL {
            written += usize::from(write_plan(case, target, &plans)?);
        }
    }
    write(&folder.join("ir_text.dict"), &dictionary())?;
    println!("{} texts, {written} plans", cases.len());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The plan of a case as `plan_file` takes it, without the padding between the fields of the header and the metadata.
/// Small: weights are random, and code is omitted. False if the target does not support the graph.
fn write_plan(case: &Case, target: Target, folder: &Path) -> Result<bool, String> {
    let graph = case.graph()?;
    let weights = SeededWeights::of(&graph, true);
    let (graph, _) = run_passes(&pipeline::standard().until(Stage::Fused), &graph, &weights)?;
    let Ok(mut lowered) = lower(&smelt::Driver::new(), &graph, target, &weights, 2) else { return Ok(false) };
    for code in lowered.plan.kernels.iter_mut().filter_map(|kernel| kernel.code.as_mut()) {
        code.source = "// the unit\n".to_owned();
        code.cubin = empty_image();
    }
    lowered.plan.programs.truncate(2);
    let path = folder.join(format!("{}-{target}", case.name.replace('/', "-")));
    lowered.write(&path, &weights, &mut |_| {}, &|| Ok(())).map_err(|error| error.to_string())?;
    let file = PlanFile::open(&path).map_err(|error| error.to_string())?;
    let metadata = 4096 + file.weights().len();
    let mut bytes = fs::read(&path).map_err(|error| error.to_string())?;
    bytes.drain(128..metadata);
    fs::write(&path, bytes).map_err(|error| error.to_string())?;
    Ok(true)
}

/// The ELF header of CUDA machine code, with nothing after it.
fn empty_image() -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01".to_vec();
    image.resize(64, 0);
    image[18] = 190;
    image
}

/// Names of ops and attributes, and the other words of the text form.
fn dictionary() -> String {
    let ops = OpSet::standard();
    let names = ops.iter().flat_map(|op| [op.mnemonic].into_iter().chain(op.attrs.iter().map(|attr| attr.name)));
    let others = ["graph @", "constant @\\\"", "return ", "kv 0 : ", " in 1..", "ceil(", "max(", "effect", "llama3("];
    let types = ["f32[", "f16[", "bf16[", "i32["];
    let mut words: Vec<&str> = names.chain(others).chain(types).collect();
    words.sort_unstable();
    words.dedup();
    words.into_iter().map(|word| format!("\"{word}\"\n")).collect()
}
