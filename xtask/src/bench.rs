//! `cargo xtask bench`: figures of the CPU target on this machine, kept in `bench/cpu.json` and shown in the book.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::process::{cargo, run as run_command};

const RESULT: &str = "bench/cpu.json";
const PAGE: &str = "docs/book/performance.md";
const BEGIN: &str = "<!-- from bench/cpu.json by `cargo xtask bench` -->";
const END: &str = "<!-- end -->";
/// Runs of each measurement; the best counts, for other programs only ever make one slower.
const RUNS: usize = 3;

/// Measures, writes the result and the book's table.
pub fn run(root: &Path) -> Result<(), String> {
    run_command(&mut cargo(root, ["build", "--release", "-p", "cli"]))?;
    let smelt = Smelt { root, folder: root.join("target/bench") };
    std::fs::create_dir_all(&smelt.folder).map_err(|error| error.to_string())?;
    let doctor = smelt.json(&["doctor", "--json"])?;
    let bandwidth = number(&doctor, "/cpu/read_bandwidth_gb_s")?;

    let demo = smelt.best("models/demo", &["--prompt", "This function returns", "--max-tokens", "400"])?;

    let plan = smelt.folder.join("llama-3.2-1b.plan");
    let plan = plan.to_str().ok_or("the folder's name is not UTF-8")?;
    let start = Instant::now();
    let config = "bench/configs/llama-3.2-1b";
    let compiled = smelt.json(&["compile", config, "-o", plan, "--weights", "dummy", "--json"])?;
    let compile_s = start.elapsed().as_secs_f64();
    let decode = smelt.best(plan, &["--prompt-ids", "1,2,3,4,5,6,7,8", "--max-tokens", "33"])?;
    let prompt: Vec<String> = (1..=256).map(|id: u32| id.to_string()).collect();
    let prefill = smelt.best(plan, &["--prompt-ids", &prompt.join(","), "--max-tokens", "1"])?;

    let gigabytes = number(&compiled, "/weight_bytes")? / 1e9;
    let tokens_per_s = number(&decode, "/timings/decode_tokens_per_s")?;
    let result = json!({
        "schema_version": 1,
        "cpu": cpu_name(),
        "threads": doctor["cpu"]["threads"],
        "instruction_set": doctor["cpu"]["instruction_set"],
        "read_bandwidth_gb_s": round(bandwidth),
        "demo_decode_tokens_per_s": round(number(&demo, "/timings/decode_tokens_per_s")?),
        "llama_1b_bf16": {
            "compile_s": round(compile_s),
            "weight_gb": round(gigabytes),
            "decode_tokens_per_s": round(tokens_per_s),
            "decode_gb_s": round(tokens_per_s * gigabytes),
            "decode_share_of_bandwidth": round(tokens_per_s * gigabytes / bandwidth),
            "prefill_256_tokens_per_s": round(256e3 / number(&prefill, "/timings/prefill_ms")?),
        },
    });
    let text = serde_json::to_string_pretty(&result).map_err(|error| error.to_string())? + "\n";
    std::fs::write(root.join(RESULT), &text).map_err(|error| format!("{RESULT}: {error}"))?;
    print!("{text}");
    let page = std::fs::read_to_string(root.join(PAGE)).map_err(|error| format!("{PAGE}: {error}"))?;
    let page = with_table(&page, &table(&result)?).ok_or_else(|| format!("{PAGE}: expected `{BEGIN}` and `{END}`"))?;
    std::fs::write(root.join(PAGE), page).map_err(|error| format!("{PAGE}: {error}"))
}

/// The invariant that `tidy` checks: the book shows what was measured.
pub fn stale(root: &Path) -> Vec<String> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"));
    let check = || {
        let result: Value = serde_json::from_str(&read(RESULT)?).map_err(|error| format!("{RESULT}: {error}"))?;
        let page = read(PAGE)?;
        match with_table(&page, &table(&result)?) {
            Some(fresh) if fresh == page => Ok(()),
            _ => Err(format!("{PAGE} does not show {RESULT}: run `cargo xtask bench`")),
        }
    };
    check().err().into_iter().collect()
}

struct Smelt<'a> {
    root: &'a Path,
    folder: std::path::PathBuf,
}

impl Smelt<'_> {
    /// What a run prints as JSON.
    fn json(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(self.root.join("target/release/smelt"));
        let output = command.current_dir(self.root).args(args).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("smelt {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// The run of `generate` that decoded fastest, or where nothing is decoded, prefilled fastest.
    fn best(&self, model: &str, args: &[&str]) -> Result<Value, String> {
        let args: Vec<&str> = ["generate", model, "--json", "--ignore-eos"].iter().chain(args).copied().collect();
        let runs: Vec<Value> = (0..RUNS).map(|_| self.json(&args)).collect::<Result<_, _>>()?;
        let time = |run: &Value| {
            let ms = |name: &str| run.pointer(name).and_then(Value::as_f64).unwrap_or(f64::MAX);
            if ms("/timings/decode_tokens_per_s") > 0.0 { ms("/timings/decode_ms") } else { ms("/timings/prefill_ms") }
        };
        runs.into_iter().min_by(|a, b| time(a).total_cmp(&time(b))).ok_or_else(|| "nothing was run".to_owned())
    }
}

fn number(value: &Value, pointer: &str) -> Result<f64, String> {
    value.pointer(pointer).and_then(Value::as_f64).ok_or_else(|| format!("there is no number at {pointer}"))
}

/// Three digits say all that such a measurement can.
fn round(value: f64) -> f64 {
    let digits = 2 - value.abs().max(1e-9).log10().floor() as i32;
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    line.map_or("unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

fn table(result: &Value) -> Result<String, String> {
    let model = |name: &str| number(result, &format!("/llama_1b_bf16/{name}"));
    let cpu = result["cpu"].as_str().unwrap_or("unknown");
    let share = 100.0 * model("decode_share_of_bandwidth")?;
    let rows = [
        ("CPU".to_owned(), format!("{cpu}, {} threads, {}", result["threads"], result["instruction_set"])),
        ("memory read bandwidth".to_owned(), format!("{} GB/s", number(result, "/read_bandwidth_gb_s")?)),
        ("demo model, decode".to_owned(), format!("{} tok/s", number(result, "/demo_decode_tokens_per_s")?)),
        ("Llama-3.2-1B shape, bf16 dummy: compile".to_owned(), format!("{} s", model("compile_s")?)),
        (
            "decode at batch 1".to_owned(),
            format!(
                "{} tok/s = {} GB/s, {share:.0} % of the bandwidth",
                model("decode_tokens_per_s")?,
                model("decode_gb_s")?
            ),
        ),
        ("prompt of 256 tokens".to_owned(), format!("{} tok/s", model("prefill_256_tokens_per_s")?)),
    ];
    let rows: String = rows.into_iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    Ok(format!("| | |\n| --- | --- |\n{rows}"))
}

fn with_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!([1265.09, 0.8534, 23.649, 0.02777].map(round), [1270.0, 0.853, 23.6, 0.0278]);
    }

    #[test]
    fn the_table_replaces_the_old_one() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(with_table(&page, "new\n"), Some(format!("a\n{BEGIN}\nnew\n{END}\nb\n")));
        assert_eq!(with_table("a", "new"), None);
    }
}
