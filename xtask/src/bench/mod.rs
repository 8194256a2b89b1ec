//! `cargo xtask bench`: figures of the CPU target on this machine, kept in `bench/cpu.json`. Figures of GPUs come from
//! `run.sh` of the bundle and are kept in `bench/gpu.json` and `bench/h200`. The book and the ADRs show them as tables made here.

pub mod accuracy;
mod gpu;
pub mod passes;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::process::{cargo, run as run_command};

const RESULT: &str = "bench/cpu.json";
const END: &str = "<!-- end -->";

/// A table of a page that is made from results.
struct Shown {
    /// As the page names them.
    from: &'static str,
    results: Vec<&'static str>,
    page: &'static str,
    table: fn(&[Value]) -> Result<String, String>,
}

/// All of them.
fn shown() -> [Shown; 8] {
    let shown = |result, page, table| Shown { from: result, results: vec![result], page, table };
    [
        shown(accuracy::RESULT, "docs/accuracy.md", |results| accuracy::table(&results[0])),
        shown(RESULT, "docs/book/performance.md", |results| cpu_table(&results[0])),
        shown(passes::RESULT, "docs/book/performance.md", |results| passes::table(&results[0])),
        shown("bench/gpu.json", "docs/book/performance.md", |results| gpu_table(&results[0])),
        shown("bench/gpu-formats.json", "docs/accuracy.md", |results| formats_table(&results[0])),
        shown("bench/weight-layout.json", "docs/adr/0005-tiled-weights.md", |results| layout_table(&results[0])),
        Shown {
            from: "bench/h200 and bench/peers.json",
            results: gpu::REPORTS.to_vec(),
            page: "README.md",
            table: gpu::headline,
        },
        Shown {
            from: "bench/h200",
            results: gpu::SHAPES.iter().map(|(file, _)| *file).collect(),
            page: "docs/book/performance.md",
            table: gpu::all,
        },
    ]
}

/// Runs of each measurement; the best counts, for other programs only ever make one slower.
const RUNS: usize = 3;

/// Formats that are compared with the first of them.
const FORMATS: [&str; 5] = ["bf16", "int8-weight", "int4", "fp8", "fp8-block"];

/// Measures, writes the result and the book's table.
pub fn run(root: &Path) -> Result<(), String> {
    run_command(&mut cargo(root, ["build", "--release", "-p", "cli"]))?;
    let smelt = Smelt { root, folder: root.join("target/bench") };
    std::fs::create_dir_all(&smelt.folder).map_err(|error| error.to_string())?;
    let doctor = smelt.json(&["doctor", "--measure", "--json"])?;
    let bandwidth = number(&doctor, "/cpu/read_bandwidth_gb_s")?;

    let demo = smelt.best("models/demo", &["--prompt", "This function returns", "--max-tokens", "400"])?;
    let formats = smelt.formats()?;

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
        "formats": formats,
        "llama_1b_bf16": {
            "compile_s": round(compile_s),
            "weight_gb": round(gigabytes),
            "decode_tokens_per_s": round(tokens_per_s),
            "decode_gb_s": round(tokens_per_s * gigabytes),
            "decode_share_of_bandwidth": round(tokens_per_s * gigabytes / bandwidth),
            "prefill_256_tokens_per_s": round(256e3 / number(&prefill, "/timings/prefill_ms")?),
        },
    });
    keep(root, RESULT, &result)
}

/// Writes a result, and the tables made from it.
fn keep(root: &Path, name: &str, result: &Value) -> Result<(), String> {
    let text = serde_json::to_string_pretty(result).map_err(|error| error.to_string())? + "\n";
    std::fs::write(root.join(name), &text).map_err(|error| format!("{name}: {error}"))?;
    print!("{text}");
    write_tables(root)
}

/// The invariant that `tidy` checks: pages show what was measured.
pub fn stale(root: &Path) -> Vec<String> {
    let check = |shown: &Shown| match shown.pages(root) {
        Ok((page, fresh)) if page == fresh => None,
        Ok(_) => Some(format!("{} does not show {}: run `cargo xtask bench --tables`", shown.page, shown.from)),
        Err(error) => Some(error),
    };
    shown().iter().filter_map(check).collect()
}

/// Writes the tables anew from what was measured before.
pub fn write_tables(root: &Path) -> Result<(), String> {
    shown().iter().try_for_each(|shown| {
        let (_, fresh) = shown.pages(root)?;
        std::fs::write(root.join(shown.page), fresh).map_err(|error| format!("{}: {error}", shown.page))
    })
}

impl Shown {
    /// The page as it is, and as it should be.
    fn pages(&self, root: &Path) -> Result<(String, String), String> {
        let read = |name: &str| std::fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"));
        let parse = |name: &&str| -> Result<Value, String> {
            serde_json::from_str(&read(name)?).map_err(|error| format!("{name}: {error}"))
        };
        let results: Vec<Value> = self.results.iter().map(parse).collect::<Result<_, _>>()?;
        let page = read(self.page)?;
        let begin = format!("<!-- from {} by `cargo xtask bench` -->", self.from);
        let fresh = with_table(&page, &begin, &(self.table)(&results)?);
        let fresh = fresh.ok_or_else(|| format!("{}: expected `{begin}` and `{END}`", self.page))?;
        Ok((page, fresh))
    }
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

    /// What formats reach of bf16's tokens per second in a model of 1B, turn by turn: the best of each.
    fn formats(&self) -> Result<Value, String> {
        let mut best = vec![[0.0_f64; 2]; FORMATS.len()];
        let plans: Vec<String> =
            FORMATS.iter().map(|format| format!("target/bench/llama-3.2-1b-{format}.plan")).collect();
        for (format, plan) in FORMATS.iter().zip(&plans) {
            let config = "bench/configs/llama-3.2-1b";
            self.json(&["compile", config, "-o", plan, "--weights", "dummy", "--precision", format, "--json"])?;
        }
        for _ in 0..RUNS {
            for (plan, best) in plans.iter().zip(&mut best) {
                let args = ["bench", plan, "--input-len", "64", "--output-len", "16", "--num-runs", "2", "--json"];
                let run = self.json(&args)?;
                best[0] = best[0].max(number(&run, "/results/0/decode_tokens_per_s")?);
                best[1] = best[1].max(64e3 / number(&run, "/results/0/ttft_ms/min")?);
            }
        }
        let row = |of: &[f64; 2]| json!({"decode": round(of[0] / best[0][0]), "prompt_64": round(of[1] / best[0][1])});
        Ok(FORMATS.iter().zip(&best).skip(1).map(|(format, of)| ((*format).to_owned(), row(of))).collect())
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

fn cpu_table(result: &Value) -> Result<String, String> {
    let model = |name: &str| number(result, &format!("/llama_1b_bf16/{name}"));
    let cpu = result["cpu"].as_str().unwrap_or("unknown");
    let share = 100.0 * model("decode_share_of_bandwidth")?;
    let mut rows = vec![
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
    for (format, of) in result["formats"].as_object().into_iter().flatten() {
        let times = |name: &str| number(of, name).map(|times| format!("{times:.2}"));
        let value =
            format!("decode {} of bf16's tok/s, prompt of 64 tokens {}", times("/decode")?, times("/prompt_64")?);
        rows.push((format!("the same in {format}"), value));
    }
    let rows: String = rows.into_iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    Ok(format!("| | |\n| --- | --- |\n{rows}"))
}

fn gpu_table(result: &Value) -> Result<String, String> {
    let device = result["device"].as_str().unwrap_or("unknown");
    let rows = [
        ("GPU".to_owned(), device.to_owned()),
        (
            "Llama-3.1-8B shape, bf16: compile on 2 cores, no unit cached".to_owned(),
            format!("{} s", round(number(result, "/compile_s")?)),
        ),
        (
            format!("load a plan with {} GB of weights from the page cache", round(number(result, "/load/weight_gb")?)),
            format!("{} s = {} GB/s", round(number(result, "/load/s")?), round(number(result, "/load/gb_s")?)),
        ),
    ];
    let rows: String = rows.into_iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    Ok(format!("| | |\n| --- | --- |\n{rows}"))
}

/// A row for each format, with decoding at each batch and the first token alone.
fn formats_table(result: &Value) -> Result<String, String> {
    let runs = result["runs"].as_array().ok_or("there is no list `runs`")?;
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    let mut batches: Vec<u64> = Vec::new();
    for run in runs {
        let (format, batch) = (run["format"].as_str().unwrap_or_default(), run["batch"].as_u64().unwrap_or_default());
        if !batches.contains(&batch) {
            batches.push(batch);
        }
        if rows.last().is_none_or(|(name, _)| *name != format) {
            rows.push((format, vec![format!("{} ms", round(number(run, "/ttft_ms")?))]));
        }
        let rate = round(number(run, "/decode_tokens_per_s")?);
        rows.last_mut().into_iter().for_each(|(_, cells)| cells.push(rate.to_string()));
    }
    let batches: Vec<String> = batches.iter().map(|batch| format!("tok/s, batch {batch}")).collect();
    let rule = "| --- ".repeat(batches.len() + 2);
    let rows: String = rows.iter().map(|(name, cells)| format!("| {name} | {} |\n", cells.join(" | "))).collect();
    Ok(format!("| format | first token, batch 1 | {} |\n{rule}|\n{rows}", batches.join(" | ")))
}

/// The best configuration of each layout, for each shape and number of rows.
fn layout_table(result: &Value) -> Result<String, String> {
    let mut text = String::new();
    for (part, unit) in [("decode", "tb_s"), ("prefill", "tflop_s")] {
        let runs = result[part].as_array().ok_or_else(|| format!("there is no list `{part}`"))?;
        let name = |run: &Value, key: &str| run[key].as_str().map_or_else(|| run[key].to_string(), str::to_owned);
        let mut layouts: Vec<String> = Vec::new();
        let mut shapes: Vec<(String, String)> = Vec::new();
        for run in runs {
            let (layout, shape) = (name(run, "layout"), (name(run, "shape"), name(run, "rows")));
            if !layouts.contains(&layout) {
                layouts.push(layout);
            }
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        let unit_name = if unit == "tb_s" { "TB/s" } else { "TFLOP/s" };
        text.push_str(&format!(
            "| {part}, {unit_name} | {} |\n|{}\n",
            layouts.join(" | "),
            " --- |".repeat(layouts.len() + 1)
        ));
        for (shape, rows) in &shapes {
            let best = |layout: &String| {
                let of = runs.iter().filter(|run| {
                    name(run, "layout") == *layout && name(run, "shape") == *shape && name(run, "rows") == *rows
                });
                let best = of.filter_map(|run| run[unit].as_f64()).fold(0.0, f64::max);
                if best > 0.0 { round(best).to_string() } else { String::new() }
            };
            let cells: Vec<String> = layouts.iter().map(best).collect();
            text.push_str(&format!("| {shape}, {rows} rows | {} |\n", cells.join(" | ")));
        }
        text.push('\n');
    }
    Ok(text.trim_end().to_owned() + "\n")
}

fn with_table(page: &str, begin: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n{table}{END}{after}"))
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
        let page = format!("a\nBEGIN\nold\n{END}\nb\n");
        assert_eq!(with_table(&page, "BEGIN", "new\n"), Some(format!("a\nBEGIN\nnew\n{END}\nb\n")));
        assert_eq!(with_table("a", "BEGIN", "new"), None);
    }
}
