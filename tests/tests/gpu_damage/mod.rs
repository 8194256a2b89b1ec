//! Plans with valid hashes and invalid code or launches: each is refused by name when it is opened or loaded.

use std::path::Path;

use plan::Plan;
use smelt::{Error, ErrorKind};

use super::{
    Arc, CompileOptions, CudaExecutor, Executor, PlanFile, PlanWriter, Quiet, Step, TargetChoice, available, driver,
    folder,
};

/// The demo model's plan with a change, up to its refusal.
fn refused(path: &Path, change: impl FnOnce(&mut Plan)) -> Error {
    let target = TargetChoice::Named("sm_90a".to_owned());
    let options = CompileOptions { target, max_batch_size: Some(1), ..CompileOptions::default() };
    driver().compile(&folder().join("../models/demo"), path, &options, &mut Quiet).unwrap();
    let file = PlanFile::open(path).unwrap();
    let mut plan = file.plan().clone();
    change(&mut plan);
    let mut writer = PlanWriter::create(path).unwrap();
    writer.append(file.weights()).unwrap();
    writer.finish(&plan).unwrap();
    match PlanFile::open(path) {
        Ok(file) => CudaExecutor::new().unwrap().load(Arc::new(file)).err().expect("refused").into(),
        Err(error) => error.into(),
    }
}

#[test]
fn damaged_code_and_launches_are_refused_by_name() {
    if !available() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.plan");
    let bad = |error: Error, words: &[&str]| {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::BadInput, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let launch = |plan: &mut Plan, change: fn(&mut plan::Launch)| {
        let Step::Launch(launch) = &mut plan.programs[0].steps[0];
        change(launch);
    };
    let words = ["kernel `embedding` at `embedding`", "its code takes parameters of [8, 8, 8, 4, 4] bytes"];
    bad(refused(&path, |plan| launch(plan, |launch| drop(launch.scalars.pop()))), &words);
    let table = refused(&path, |plan| launch(plan, |launch| launch.inputs.truncate(1)));
    bad(table, &["a size of `embedding` has no value, or is larger than its operands"]);
    let code = |plan: &mut Plan| plan.kernels[0].code.clone().unwrap();
    bad(
        refused(&path, |plan| plan.kernels[0].code.as_mut().unwrap().cubin.truncate(100)),
        &["the machine code of kernel `embedding` is damaged", "truncated"],
    );
    // the code of another kernel
    let other = refused(&path, |plan| plan.kernels[1].code = Some(code(plan)));
    assert_eq!(other.kind(), ErrorKind::Unsupported, "{other}");
    assert!(other.to_string().contains("cannot be loaded: its entry"), "{other}");
    let inner = refused(&path, |plan| plan.kernels[0].code.as_mut().unwrap().cubin[64..].fill(0));
    assert!(inner.to_string().contains("kernel `embedding` cannot be loaded"), "{inner}");
}

#[test]
fn what_does_not_fit_says_what_is_free() {
    if !available() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.plan");
    // 40 TB of blocks
    let error = refused(&path, |plan| plan.kv[0].blocks = 200_000_000);
    assert_eq!(error.kind(), ErrorKind::DoesNotFit, "{error}");
    assert!(error.to_string().contains("are free"), "{error}");
}
