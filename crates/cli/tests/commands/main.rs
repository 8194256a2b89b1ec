//! The program as a user sees it: its output, its files, its exit codes.

mod accuracy;
mod bench;
mod calibrate;
mod files;
mod finite;
mod first_use;
mod import;
#[cfg(unix)]
mod inputs;
mod profile;
mod prompts;
mod sandbox;
mod terminal;
mod views;

use std::path::{Path, PathBuf};

use sandbox::Sandbox;
use serde_json::Value;

const MHA: &str = "tests/oracle/llama-mha";
const DEMO: &str = "models/demo";

#[test]
fn a_directory_is_compiled_once_and_writes_text() {
    let sandbox = Sandbox::new();
    let args = ["generate", "models/demo", "--prompt", "This function returns", "--max-tokens", "8"];
    let first = sandbox.run(&args);
    assert!(String::from_utf8_lossy(&first.stderr).contains("writing plan"));
    let second = sandbox.run(&args);
    assert!(!String::from_utf8_lossy(&second.stderr).contains("writing plan"));
    assert_eq!(first.stdout, second.stdout);
    assert!(String::from_utf8_lossy(&first.stdout).starts_with(" a `Result"), "{first:?}");
    let other = sandbox.run(&[&args[..], &["--max-batch-size", "2"]].concat());
    assert!(String::from_utf8_lossy(&other.stderr).contains("writing plan"));
}

#[test]
fn a_damaged_plan_in_the_cache_is_made_again() {
    let sandbox = Sandbox::new();
    let args = ["generate", MHA, "--prompt-ids", "5,6,7", "--max-tokens", "4"];
    let first = sandbox.ok(&args);
    let entries: Vec<PathBuf> =
        std::fs::read_dir(sandbox.path("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1);
    let mut bytes = std::fs::read(&entries[0]).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&entries[0], bytes).unwrap();
    let again = sandbox.run(&args);
    assert!(String::from_utf8_lossy(&again.stderr).contains("writing plan"));
    assert_eq!(String::from_utf8_lossy(&again.stdout), first);
    assert!(!String::from_utf8_lossy(&sandbox.run(&args).stderr).contains("writing plan"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_cache_that_cannot_be_written_is_a_note() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("file"), "no folder").unwrap();
    for cache in [sandbox.text("file"), "/proc".to_owned()] {
        let args = ["generate", MHA, "--prompt-ids", "5", "--max-tokens", "2", "--cache-dir", &cache];
        let output = sandbox.run(&args);
        let errors = String::from_utf8_lossy(&output.stderr);
        let note = errors.find("note: the plan could not be cached: ");
        assert!(output.status.success() && note < errors.find("writing plan") && note.is_some(), "{errors}");
    }
}

#[test]
fn no_cache_and_cache_dir_hold_for_compiled_kernels_too() {
    let sandbox = Sandbox::new();
    if tests::device::compiler_or_skip().is_none() {
        return;
    }
    let compile = |more: &[&str]| {
        let args = ["compile", MHA, "--target", "sm_90a", "--dry-run", "--emit", "sass-report", "--max-batch-size=1"];
        assert!(sandbox.command(&[&args[..], more].concat()).output().unwrap().status.success());
    };
    compile(&["--no-cache"]);
    assert_eq!(sandbox.files(), [""; 0]);
    compile(&["--cache-dir", &sandbox.text("other")]);
    assert!(sandbox.files() == ["other"] && sandbox.path("other/units").is_dir());
    compile(&[]);
    assert!(sandbox.path("cache/units").is_dir());
}

#[test]
fn json_has_the_fields_that_programs_read() {
    let sandbox = Sandbox::new();
    let report =
        sandbox.json(&["generate", MHA, "--prompt-ids", "5,6,7", "--max-tokens", "4", "--ignore-eos", "--json"]);
    assert_eq!(report["prompt_ids"], serde_json::json!([5, 6, 7]));
    assert_eq!(report["token_ids"].as_array().unwrap().len(), 4);
    assert_eq!((&report["text"], &report["finish_reason"]), (&Value::Null, &Value::from("length")));
    for field in ["load_ms", "prefill_ms", "decode_ms", "decode_tokens_per_s"] {
        assert!(report["timings"][field].is_f64(), "{field}");
    }
    let ids: Vec<String> = report["token_ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let plain = sandbox.ok(&["generate", MHA, "--prompt-ids", "5,6,7", "--max-tokens", "4", "--ignore-eos"]);
    assert_eq!(plain, ids.join(" ") + "\n");
}

#[test]
fn logits_have_a_row_for_each_position() {
    let sandbox = Sandbox::new();
    let file = sandbox.text("logits.safetensors");
    let args = ["generate", MHA, "--prompt-ids", "5,6,7", "--max-tokens", "4", "--ignore-eos", "--json", "--logits"];
    let report = sandbox.json(&[&args[..], &[&file]].concat());
    let bytes = std::fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    assert_eq!((logits.dtype(), logits.shape()), (safetensors::Dtype::F32, &[3 + 4, 320][..]));
    let values: Vec<f32> = logits.data().chunks_exact(4).map(|w| f32::from_le_bytes(w.try_into().unwrap())).collect();
    let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let sampled: Vec<usize> = values.chunks(320).skip(2).take(4).map(best).collect();
    assert_eq!(report["token_ids"], serde_json::json!(sampled));
}

#[test]
fn plans_are_written_shown_and_run() {
    let sandbox = Sandbox::new();
    let plan = sandbox.text("model.plan");
    let args = ["compile", MHA, "-o", &plan, "--max_batch_size=2", "--max_seq_len", "128", "--kv-cache", "1MiB"];
    let report = sandbox.json(&[&args[..], &["--max-num-tokens", "32", "--dtype", "bf16", "--json"]].concat());
    assert_eq!(report["target"], "cpu");
    assert_eq!(report["plan_bytes"], std::fs::metadata(&plan).unwrap().len());
    assert_eq!(report["programs"], serde_json::json!(["decode@1", "decode@2", "mixed@32"]));
    let summary = sandbox.json(&["inspect", &plan, "--json"]);
    assert_eq!((&summary["max_batch_size"], &summary["max_seq_len"]), (&Value::from(2), &Value::from(128)));
    assert!(sandbox.ok(&["inspect", &plan]).contains("LlamaForCausalLM"));
    assert!(sandbox.ok(&["plan", "dump", &plan]).contains("program decode@2 <T = 2, B = 2, R = 2>"));
    assert_eq!(sandbox.ok(&["generate", &plan, "--prompt-ids", "5", "--max-tokens", "3"]).split(' ').count(), 3);
}

#[test]
fn every_option_reaches_the_plan() {
    let sandbox = Sandbox::new();
    let plan = sandbox.text("model.plan");
    let line = "--target cpu --dtype float16 --max-batch-size 3 --max-input-len 64 --max_output_len 60 \
                --max-seq-len 128 --max_num_tokens=48 --kv-cache 96KiB --workspace-size 16MiB \
                --weights checkpoint --opt-bisect-limit 99 --disable-pass fuse-swiglu,fuse-silu-mul --json";
    let args: Vec<&str> = ["compile", MHA, "-o", &plan].into_iter().chain(line.split_whitespace()).collect();
    sandbox.ok(&args);
    let summary = sandbox.json(&["inspect", &plan, "--json"]);
    let config: std::collections::BTreeMap<String, String> =
        serde_json::from_value::<Vec<(String, String)>>(summary["config"].clone()).unwrap().into_iter().collect();
    let expected = [
        ("target", "cpu"),
        ("dtype", "f16"),
        ("max_batch_size", "3"),
        ("max_input_len", "64"),
        ("max_seq_len", "128"),
        ("max_num_tokens", "48"),
        // 3 layers, 4 heads of 16, keys and values in f16: a block of 64 tokens takes 48 KiB
        ("kv_blocks", "2"),
        ("weights", "checkpoint"),
        ("opt_bisect_limit", "99"),
        ("disabled_passes", "fuse-swiglu,fuse-silu-mul"),
    ];
    for (key, value) in expected {
        assert_eq!(config[key], value, "{key}");
    }
    assert!(!summary["kernels"].as_array().unwrap().contains(&Value::from("swiglu")));
    assert_eq!(sandbox.ok(&["generate", &plan, "--prompt-ids", "5", "--max-tokens", "3"]).split(' ').count(), 3);
}

#[test]
fn the_options_of_trtllm_build_work() {
    let sandbox = Sandbox::new();
    let engine = sandbox.text("engine");
    let line = "build --model_dir models/demo --precision float16 --max_batch_size 1 --max_input_len 1024 \
                --max_output_len 1024 --workspace_size 1073741824 --output_dir";
    let args: Vec<&str> = line.split_whitespace().chain([engine.as_str()]).collect();
    sandbox.ok(&args);
    let summary = sandbox.json(&["inspect", &format!("{engine}/model.plan"), "--json"]);
    assert_eq!((&summary["max_seq_len"], &summary["max_input_len"]), (&Value::from(2048), &Value::from(1024)));
    assert_eq!(summary["kv"][0]["dtype"], "f16");
    assert!(sandbox.ok(&["generate", &engine, "--prompt", "If the vector", "--max-tokens", "5"]).len() > 5);
}

#[test]
fn dummy_weights_need_only_a_configuration() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("model");
    std::fs::create_dir(&folder).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::copy(root.join(MHA).join("config.json"), folder.join("config.json")).unwrap();
    let folder = folder.to_str().unwrap();
    let args = ["generate", folder, "--weights", "dummy", "--prompt-ids", "1,2", "--max-tokens", "4", "--ignore-eos"];
    assert_eq!(sandbox.ok(&args), sandbox.ok(&[&args[..], &["--threads", "1", "--no-cache"]].concat()));
    sandbox.fails(&["generate", folder, "--prompt-ids", "1"], 3, "model.safetensors");
}

#[test]
fn dumps_go_to_a_folder_and_a_dry_run_writes_no_plan() {
    let sandbox = Sandbox::new();
    let dump = sandbox.text("dump");
    let args = ["compile", MHA, "--dry-run", "--emit", "ir,ir-after-all,kernels,plan", "--dump-dir", &dump];
    sandbox.ok(&args);
    for name in ["imported.ir", "graph.ir", "00-canonicalize.ir", "kernels.txt", "plan.txt"] {
        assert!(sandbox.path("dump").join(name).exists(), "{name}");
    }
    assert_eq!(sandbox.files(), ["dump"]);
    // what one command writes, another reads
    let graph = std::fs::read_to_string(sandbox.path("dump/graph.ir")).unwrap();
    assert_eq!(sandbox.ok(&["opt", &sandbox.text("dump/imported.ir")]), graph);
    let merged = sandbox.ok(&["opt", "--pass", "merge-linears,fuse-swiglu", &sandbox.text("dump/imported.ir")]);
    assert!(merged.contains("layers.0.attn.q_k_v") && merged.contains("silu_mul") == graph.contains("silu_mul"));
}

#[test]
fn lists_doctor_and_completions_print() {
    let sandbox = Sandbox::new();
    assert!(sandbox.ok(&["--list-passes"]).contains("fuse-add-rms-norm"));
    assert_eq!(sandbox.ok(&["opt", "--list-passes"]), sandbox.ok(&["--list-passes"]));
    assert!(sandbox.ok(&["--list-ops"]).contains("paged_attention %q, %cache"));
    assert!(sandbox.ok(&["--list-kernels"]).contains("kernels/linear/skinny.cuh"));
    assert!(sandbox.ok(&["--list-ops", "--json"]).contains("\"type\": \"Option<DType>\""));
    assert!(sandbox.ok(&["--list-passes", "--json"]).contains("\"slot\": \"BeforeFusion\""));
    for shell in ["bash", "zsh", "fish"] {
        assert!(sandbox.ok(&["completions", shell]).contains("smelt"));
    }
    let report = sandbox.json(&["doctor", "--json", "--measure"]);
    assert!(report["cpu"]["read_bandwidth_gb_s"].as_f64().unwrap() > 0.0);
    let told = report["absent"].as_array().unwrap().len() + report["missing"].as_array().unwrap().len();
    assert!(report["driver"].is_object() || told > 0);
}

#[test]
fn lists_have_the_order_of_what_they_list() {
    let sandbox = Sandbox::new();
    let names =
        |text: &str| -> Vec<String> { text.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect() };
    // the pipeline, then what only options add
    let passes = names(&sandbox.ok(&["--list-passes"]));
    let report = sandbox.json(&["--list-passes", "--json"]);
    let of_pipeline = report["pipeline"].as_array().unwrap().iter().filter_map(|entry| entry["pass"].as_str());
    let of_pipeline: Vec<&str> = of_pipeline.collect();
    let mut seen = std::collections::BTreeSet::new();
    let first: Vec<&str> = of_pipeline.into_iter().filter(|name| seen.insert(*name)).collect();
    assert!(first.len() > 10 && passes[..first.len()] == first[..], "{passes:?} {first:?}");
    // ops by name
    let ops = names(&sandbox.ok(&["--list-ops"]));
    assert!(ops.is_sorted(), "{ops:?}");
    // kernels by target, each column as wide as its widest entry
    let kernels = sandbox.ok(&["--list-kernels"]);
    let column = |line: &str| line.find("kernels/").or(line.find("crates/")).unwrap();
    let columns: std::collections::BTreeSet<usize> = kernels.lines().map(column).collect();
    assert_eq!(columns.len(), 1, "{kernels}");
    let count = sandbox.json(&["--list-kernels", "--json"])["kernels"].as_array().unwrap().len();
    assert_eq!(kernels.lines().count(), count);
}

#[test]
fn misspelled_names_get_a_suggestion() {
    let sandbox = Sandbox::new();
    let dry = ["compile", DEMO, "--dry-run"];
    sandbox.fails(&[&dry[..], &["--emit", "kernals"]].concat(), 2, "unknown text `kernals` (did you mean `kernels`?)");
    sandbox.fails(&["inspect", DEMO, "--machine", "h20"], 2, "unknown machine `h20` (did you mean `h200`?)");
    let limit = ["bench", DEMO, "--fail-if", "tpot_p5>+3%"];
    sandbox.fails(&limit, 2, "unknown figure `tpot_p5` (did you mean `tpot_p50`?)");
    let graph = sandbox.text("x.ir");
    std::fs::write(&graph, "graph @g(%x: f32[2]) {\n  %y = slu %x : f32[2]\n  return %y\n}\n").unwrap();
    sandbox.fails(&["opt", &graph], 3, "unknown op `slu` (did you mean `silu`?)");
    let scratch = sandbox.text("scratch");
    sandbox.fails(&["quantize", DEMO, "-o", &scratch, "--precision", "int3"], 2, "(did you mean `int4`?)");
}

#[test]
fn doctor_shows_the_caches() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path("doctor-cache");
    std::fs::create_dir_all(cache.join("units")).unwrap();
    for (name, size) in [("a.plan", 2048), ("b.plan", 1024), ("units/c.cubin", 10)] {
        std::fs::write(cache.join(name), vec![0; size]).unwrap();
    }
    let report = sandbox.json(&["doctor", "--json", "--cache-dir", &sandbox.text("doctor-cache")]);
    let found: Vec<String> = report["caches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cache| format!("{} {} {}", cache["what"], cache["files"], cache["bytes"]))
        .collect();
    assert_eq!(found, ["\"plans\" 2 3072", "\"kernels\" 1 10", "\"losses\" 0 0"]);
    assert!(report["cpu"]["read_bandwidth_gb_s"].is_null(), "measured only on request");
    assert_eq!(report["plan_format"], 3);
}

#[test]
fn what_cannot_be_done_has_its_exit_code() {
    let sandbox = Sandbox::new();
    let plan = sandbox.text("x.plan");
    let compile = |more: &[&'static str]| {
        let args: Vec<String> = ["compile", MHA, "-o", &plan].iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        args
    };
    let cases: [(&[&str], i32, &str); 10] = [
        (&["--dtype", "int3"], 2, "unknown dtype `int3`"),
        (&["--kv-cache", "much"], 2, "expected a size"),
        (&["--max-seq-len", "4096"], 2, "the model's context length is 512"),
        (&["--max-num-tokens", "4", "--max-batch-size", "8"], 2, "--max-num-tokens 4 is below"),
        (&["--max-input-len", "300", "--max-output-len", "300", "--max-seq-len", "500"], 2, "need 600 tokens"),
        (&["--disable-pass", "fuse-everything"], 2, "unknown pass `fuse-everything`, expected one of: canonicalize"),
        (&["--disable-pass", "canonicalize"], 2, "cannot be disabled: later stages"),
        (&["--target", "tpu"], 4, "unknown target `tpu`, this program compiles for: cpu"),
        (&["--kv-cache", "1"], 6, "is smaller than one block"),
        (&["--workspace-size", "1000"], 6, "live at the memory peak of mixed@512"),
    ];
    for (more, code, message) in cases {
        let args = compile(more);
        sandbox.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, message);
    }
    sandbox.fails(&["generate", MHA, "--prompt", "words"], 3, "has no tokenizer.json");
    sandbox.fails(&["generate", MHA, "--prompt-ids", "320"], 3, "token 320 is outside the vocabulary");
    sandbox.fails(&["generate", MHA, "--prompt-ids", "1", "--max-tokens", "600"], 3, "the plan allows 512");
    sandbox.fails(&["generate", "README.md", "--prompt", "x"], 3, "not a plan");
    sandbox.fails(&["compile", "no/such/folder", "-o", &plan], 3, "there is no such file or directory");
    sandbox.fails(&["compile", MHA, "-o", &sandbox.text("no/such/folder/x.plan")], 3, "x.plan");
    assert!(!sandbox.path("x.plan").exists());
}

/// Kernels are compiled if a file is written or their code is requested, and not before the plan is known to fit.
#[test]
fn nothing_is_compiled_that_is_not_needed() {
    let sandbox = Sandbox::new();
    let config = "bench/configs/llama-3.1-8b";
    let compile = ["compile", config, "--weights", "dummy", "--target", "sm_90a", "--workspace-size"];
    let run = |more: &[&str]| {
        let output = sandbox.run(&[&compile[..], more].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        // with --json, phases are not told
        let selected = more.contains(&"--json") || errors.contains("selecting kernels");
        assert!(selected && !errors.contains("compiling kernels"), "{errors}");
        (output, errors)
    };
    let (output, errors) = run(&["1GiB", "--dry-run", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{errors}"));
    let needed = report["workspace_bytes"].as_u64().unwrap();
    assert!(run(&[&needed.to_string(), "--dry-run"]).0.status.success(), "the bound is kept");
    let (output, errors) = run(&[&(needed - 1).to_string(), "-o", &sandbox.text("x.plan")]);
    assert_eq!(output.status.code(), Some(6), "{errors}");
    assert!(errors.contains("logits : f32[R, 128256]"), "{errors}");
}

/// The end of a pipe that nobody reads.
fn deserted() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

#[test]
fn readers_may_leave() {
    let sandbox = Sandbox::new();
    let args = ["generate", "models/demo", "--prompt", "A trait", "--max-tokens", "8"];
    let output = sandbox.command(&args).stdout(deserted()).output().unwrap();
    // 128 + SIGPIPE, and no message
    assert_eq!(output.status.code(), Some(141));
    assert!(String::from_utf8_lossy(&output.stderr).ends_with("s)\n"), "{output:?}");
    // nobody reads the progress: the work is done anyway
    let plan = sandbox.text("x.plan");
    assert!(sandbox.command(&["compile", MHA, "-o", &plan]).stderr(deserted()).output().unwrap().status.success());
    sandbox.ok(&["inspect", &plan]);
    assert_eq!(sandbox.command(&["inspect", "README.md"]).stderr(deserted()).output().unwrap().status.code(), Some(3));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_has_no_room() {
    let sandbox = Sandbox::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = sandbox.command(&["--list-passes"]).stdout(full).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(6) && errors.contains("stdout: No space left"), "{errors}");
}

#[test]
fn a_gpu_plan_is_made_anywhere_and_runs_where_one_is() {
    let sandbox = Sandbox::new();
    let plan = sandbox.text("x.plan");
    let doctor = sandbox.json(&["doctor", "--json"]);
    let compile = ["compile", MHA, "-o", &plan, "--target", "sm_90a"];
    if doctor["nvrtc"].is_null() {
        sandbox.fails(&compile, 5, "nvidia-cuda-nvrtc");
        assert!(!sandbox.path("x.plan").exists());
        return;
    }
    sandbox.ok(&compile);
    let dump = sandbox.ok(&["plan", "dump", &plan]);
    assert!(dump.contains("plan for sm_90a") && dump.contains("attention_reference"), "{dump}");
    if doctor["driver"].is_null() {
        sandbox.fails(&["generate", &plan, "--prompt-ids", "1,2"], 5, "libcuda");
    }
}

#[test]
fn code_is_emitted() {
    let sandbox = Sandbox::new();
    let folder = sandbox.text("dump");
    let dump = |what: &str| {
        let emit = ["--emit", what, "--dump-dir", &folder];
        [&["compile", MHA, "--dry-run", "--target", "sm_90a", "--dtype", "bf16"], &emit[..]]
            .concat()
            .iter()
            .map(|arg| (*arg).to_owned())
            .collect::<Vec<_>>()
    };
    let run = |what: &str| sandbox.ok(&dump(what).iter().map(String::as_str).collect::<Vec<_>>());
    run("cuda,kernels");
    let text = |name: &str| std::fs::read_to_string(Path::new(&folder).join(name)).unwrap();
    assert!(text("kernels.txt").contains("// decode@1"));
    let units: Vec<String> = sandbox_files(&folder).into_iter().filter(|name| name.ends_with(".cu")).collect();
    let embedding = units.iter().find(|name| name.contains("embedding")).unwrap();
    assert!(
        text(embedding).contains("#line 1 \"kernels/rows/embedding.cuh\"") && !text(embedding).contains("#include")
    );
    sandbox.fails(&["compile", MHA, "--dry-run", "--target", "sm_90a", "--emit", "cubin"], 2, "--dump-dir");
    if !sandbox.json(&["doctor", "--json"])["nvrtc"].is_null() {
        run("ptx,cubin,sass-report");
        assert!(text("sass-report.txt").contains("linear_few"));
        assert!(
            sandbox_files(&folder).iter().filter(|name| name.ends_with(".ptx") || name.ends_with(".cubin")).count()
                == 2 * units.len()
        );
    }
}

fn sandbox_files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_pickle_is_refused_with_a_hint() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("model");
    std::fs::create_dir(&folder).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(MHA).join("config.json");
    std::fs::copy(config, folder.join("config.json")).unwrap();
    std::fs::write(folder.join("pytorch_model.bin"), "PK").unwrap();
    let plan = sandbox.text("x.plan");
    sandbox.fails(&["compile", folder.to_str().unwrap(), "-o", &plan], 3, "convert them with transformers");
    sandbox.fails(&["inspect", folder.to_str().unwrap()], 3, "not a plan");
    assert_eq!(sandbox.files(), ["model"]);
}

#[test]
fn timings_decide_and_foreign_caches_are_refused() {
    let sandbox = Sandbox::new();
    let (plan, again, cache) = (sandbox.text("x.plan"), sandbox.text("y.plan"), sandbox.text("timings.json"));
    let compile = |plan: &str, more: &[&str]| {
        let args = ["compile", MHA, "-o", plan, "--target", "cpu", "--max-batch-size", "1", "--max-num-tokens", "8"];
        let args = [&args[..], &["--timing-cache", &cache], more].concat();
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |args: Vec<String>| sandbox.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    run(compile(&plan, &[]));
    assert!(
        run(compile(&again, &["--emit", "kernels", "--timing-cache-mode", "require"])).contains("  timed: linear {")
    );
    assert_eq!(std::fs::read(&plan).unwrap(), std::fs::read(&again).unwrap());
    // more sizes than were timed
    let wider = ["compile", MHA, "--dry-run", "--target", "cpu", "--timing-cache", &cache];
    let output = sandbox.run(&wider);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.contains("warning: ") && errors.contains("heuristics are used"),
        "{errors}"
    );
    let required = [&wider[..], &["--timing-cache-mode", "require"]].concat();
    sandbox.fails(&required, 3, "has no timings of these ops");
    sandbox.fails(&["compile", MHA, "--dry-run", "--timing-cache-mode", "read"], 2, "--timing-cache <FILE>");
    std::fs::write(&cache, "{\"schema_version\": 1, \"timings\": 3}").unwrap();
    sandbox.fails(&wider, 3, "timings.json: not a timing cache");
}

#[test]
fn a_checkpoint_is_quantized_to_another() {
    let sandbox = Sandbox::new();
    let out = sandbox.text("int8");
    let report = sandbox.json(&["quantize", MHA, "-o", &out, "--precision", "int8-weight", "--json"]);
    assert_eq!(
        (&report["format"], &report["quantized"], &report["kept"]),
        (&"pack-quantized".into(), &21.into(), &1.into())
    );
    assert_eq!(report["output_bytes"], std::fs::metadata(sandbox.path("int8/model.safetensors")).unwrap().len());
    let config: Value = serde_json::from_slice(&std::fs::read(sandbox.path("int8/config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["ignore"], serde_json::json!(["lm_head"]));
    sandbox.ok(&["generate", &out, "--prompt-ids", "5,6,7", "--max-tokens", "2"]);

    let again = sandbox.text("again");
    sandbox.fails(&["quantize", MHA, "-o", &out, "--precision", "fp8"], 2, "already exists");
    sandbox.fails(&["quantize", MHA, "-o", &again, "--precision", "fp9"], 2, "unknown format `fp9`");
    sandbox.fails(&["quantize", MHA, "-o", &again], 2, "nothing to quantize: expected --precision");
    // all commands refuse quantized checkpoints alike
    for command in [&["quantize", &out, "-o", &again][..], &["generate", &out, "--prompt-ids", "5"]] {
        let args = [command, &["--precision", "fp8"]].concat();
        sandbox.fails(&args, 2, "is already quantized by compressed-tensors");
    }
    sandbox.fails(
        &["quantize", "nowhere", "-o", &again, "--precision", "fp8"],
        3,
        "nowhere: there is no such file or directory",
    );
    sandbox.fails(&["quantize", MHA, "-o", &sandbox.text("no/where"), "--precision", "fp8"], 3, "no/where: ");
    sandbox.fails(&["quantize", MHA, "-o", &again, "--precision", "int4-awq"], 2, "int4-awq requires a calibration");
    let odd = "`model.layers.0.mlp.down_proj`: its 160 columns are not a multiple of 128, as compressed-tensors \
               requires: expected another format for it in --precision-map, or a line `model.layers.0.mlp.down_proj none`";
    sandbox.fails(&["quantize", MHA, "-o", &again, "--precision", "int4"], 4, odd);
    let mut files = sandbox.files();
    files.sort();
    assert_eq!(files, ["cache", "int8"]);
    // the hint of the message works
    let map = sandbox.text("map");
    std::fs::write(&map, "model.layers.*.mlp.down_proj none").unwrap();
    let args = ["quantize", MHA, "-o", &again, "--precision", "int4", "--precision-map", &map, "--json"];
    assert_eq!(sandbox.json(&args)["kept"], 4);
}
