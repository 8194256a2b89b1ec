//! The op in a real model, from the command line to a GPU's machine code.

use std::path::{Path, PathBuf};
use std::process::Command;

use custom_op::{SoftClip, driver};
use smelt::extend::{Body, Call, Header, Kernel, Refusal, Site};
use smelt::{
    Compilation, CompileOptions, Driver, Error, Generation, GenerationParams, Llm, LoadOptions, Prompt, Quiet, Source,
    TargetChoice, Unit,
};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

fn options(target: &str) -> CompileOptions {
    CompileOptions { target: TargetChoice::Named(target.to_owned()), ..CompileOptions::default() }
}

fn generate(driver: &Driver) -> Generation {
    let load = LoadOptions { compile: options("cpu"), ..LoadOptions::default() };
    let mut llm = Llm::load_with(driver, &demo(), &load, &mut Quiet).unwrap();
    let params = GenerationParams { max_tokens: 16, logits: true, ..GenerationParams::default() };
    llm.generate(&[Prompt::from("This function returns")], &params).unwrap().remove(0)
}

#[test]
fn logits_are_clipped_and_the_text_is_the_same() {
    let (plain, clipped) = (generate(&Driver::new()), generate(&driver()));
    let expected: Vec<f32> = plain.logits.iter().map(|x| 30.0 * (x / 30.0).tanh()).collect();
    assert!(plain.logits != clipped.logits && expected == clipped.logits);
    assert_eq!(plain.text, clipped.text);
}

#[test]
fn every_subcommand_knows_the_parts() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_custom-op")).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let expect = |text: &str, part: &str| assert!(text.contains(part), "expected `{part}` in: {text}");
    expect(&run(&["--list-passes"]), "clip-logits");
    expect(&run(&["--list-ops"]), "soft_clip %x {limit}");
    expect(&run(&["--list-kernels"]), "examples/custom-op/kernels/soft_clip.cuh");
    let case = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/clip-logits.ir");
    expect(&run(&["opt", "--pass", "clip-logits", case]), "%logits = soft_clip %logits.raw {limit = 30.0}");

    let plan = std::env::temp_dir().join(format!("custom-op-{}.plan", std::process::id()));
    let (model, file) = (demo().to_string_lossy().into_owned(), plan.to_string_lossy().into_owned());
    run(&["compile", &model, "-o", &file, "--target", "cpu"]);
    expect(&run(&["inspect", &file]), "soft_clip");
    expect(&run(&["generate", &file, "--prompt", "This function returns", "--max-tokens", "8"]), "Result<T, E>");
    std::fs::remove_file(plan).unwrap();
}

/// The driver with the tests' NVRTC; `None` if there is none.
fn with_nvrtc(driver: Driver) -> Option<Driver> {
    if let Err(reason) = tests::device::compiler() {
        eprintln!("skipped: {reason}");
        return None;
    }
    let home = std::env::var_os("SMELT_CUDA_HOME").map(Into::into);
    Some(driver.cuda_folders(move || home.iter().cloned().chain(["/usr/local/cuda".into()]).collect()))
}

/// The units of a plan for GPUs.
fn build(driver: &Driver) -> Result<Vec<Unit>, Error> {
    let options = options("sm_90a");
    let (source, mut progress) = (Source::open(demo(), &options)?, Quiet);
    let lowered = Compilation::new(driver, &source, &options, &mut progress)?.lowered()?;
    Ok(lowered.build()?.units().to_vec())
}

#[test]
fn the_kernel_is_compiled_for_a_gpu() {
    let Some(driver) = with_nvrtc(driver()) else { return };
    let units = build(&driver).unwrap();
    let unit = units.iter().find(|unit| unit.name.ends_with("soft_clip")).unwrap();
    assert!(unit.ptx.contains(".entry soft_clip(") && !unit.cubin.is_empty());
    assert!(unit.source.contains("#line 1 \"examples/custom-op/kernels/soft_clip.cuh\""));
}

/// A kernel whose file does not compile.
#[derive(Debug)]
struct Broken;

impl Kernel for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        site.cast::<SoftClip>()?;
        let file =
            Header { path: "my/broken.cuh", text: "#pragma once\nstruct Broken {\n  float gain = undeclared;\n};\n" };
        Body::own("broken", file, "Broken".to_owned(), 32, site.row_count()?).call(site)
    }
}

#[test]
fn errors_of_the_compiler_name_the_file() {
    let Some(driver) = with_nvrtc(driver().cuda_kernel(Broken)) else { return };
    let error = build(&driver).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("kernel `broken` does not compile") && said.contains("my/broken.cuh(3): error"), "{said}");
}
