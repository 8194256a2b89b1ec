//! Plan files: the same bytes from the same inputs, and only errors from damaged ones. Forged plans are in
//! `hostile.rs`.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use common::{assert_says, compile_twice, demo, oracle, put};
use plan::{Executor, FORMAT_VERSION, Plan, PlanFile, PlanWriter};
use runtime::CpuExecutor;
use smelt::{CompileOptions, Driver, Quiet, TargetChoice};

const MODEL: &str = "llama-gqa-tied-llama3-rope";

fn compile(dir: &Path, out: &Path) {
    let options = CompileOptions { max_batch_size: Some(2), ..CompileOptions::default() };
    Driver::new().compile(dir, out, &options, &mut Quiet).unwrap();
}

/// Opens and loads; an unusable plan gives an error, and nothing panics.
fn load(path: &Path) -> Result<(), String> {
    let run = || {
        let file = Arc::new(PlanFile::open(path).map_err(|error| error.to_string())?);
        CpuExecutor::new(Some(1)).unwrap().load(file).map(drop).map_err(|error| error.to_string())
    };
    catch_unwind(AssertUnwindSafe(run)).expect("no panic")
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let options = CompileOptions { target: TargetChoice::Named("cpu".to_owned()), ..CompileOptions::default() };
    for dir in [oracle(MODEL), demo()] {
        compile_twice(&Driver::new(), &dir, &options);
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.plan");
    compile(&oracle(MODEL), &path);
    let good = std::fs::read(&path).unwrap();
    load(&path).unwrap();
    // every bit of the header's fields, then places all over zeros, weights and metadata
    let fields = (0..160).flat_map(|place| (0..8).map(move |bit| (place, bit)));
    let metadata = u64::from_le_bytes(good[80..88].try_into().unwrap()) as usize;
    let places = (160..metadata).step_by(metadata / 200).chain((metadata..good.len()).step_by(61));
    let last = good.len() - 40..good.len();
    for (place, bit) in fields.chain(places.chain(last).map(|place| (place, place % 8))) {
        put(&path, place, good[place] ^ 1 << bit);
        let error = load(&path).expect_err("a flipped bit");
        assert_says(&error, &["model.plan: ", "plan"]);
        put(&path, place, good[place]);
    }
    load(&path).unwrap();
    for length in (0..64).chain((64..good.len()).step_by(good.len() / 60)) {
        std::fs::write(&path, &good[..length]).unwrap();
        load(&path).expect_err("a truncated plan");
    }
    std::fs::write(&path, [&good[..], b"x"].concat()).unwrap();
    load(&path).expect_err("a plan with trailing bytes");
}

#[test]
fn plans_for_others_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.plan");
    compile(&oracle(MODEL), &path);
    let good = std::fs::read(&path).unwrap();
    let mut newer = good;
    newer[8] = 99;
    let plan = PlanFile::open(&path).unwrap().plan().clone();
    std::fs::write(&path, newer).unwrap();
    let reads = format!("plan format 99, this program reads {FORMAT_VERSION}: compile the checkpoint again");
    assert!(load(&path).unwrap_err().contains(&reads));
    let other = Plan { target: "tpu".to_owned(), weights: Vec::new(), programs: Vec::new(), ..plan.clone() };
    PlanWriter::create(&path).unwrap().finish(&other).unwrap();
    assert!(load(&path).unwrap_err().contains("for target `tpu`"));
    // a GPU plan contains the code of its kernels
    let gpu = Plan { target: "sm_90a".to_owned(), weights: Vec::new(), programs: Vec::new(), ..plan };
    PlanWriter::create(&path).unwrap().finish(&gpu).unwrap();
    assert!(load(&path).unwrap_err().contains("has no code for the target"));
}
