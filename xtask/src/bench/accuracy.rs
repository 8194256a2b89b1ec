//! `cargo xtask bench --accuracy`: the perplexity of the demo model in each format on its held-out text, as it is and with
//! outliers among its activations, and what is chosen layer by layer; kept in `bench/accuracy.json`.

use std::path::Path;

use serde_json::{Value, json};

use super::{Smelt, keep, number};
use crate::process::{cargo, run as run_command};

pub const RESULT: &str = "bench/accuracy.json";
const DEMO: &str = "models/demo";
const TEXT: &str = "models/demo/heldout.txt";
/// What the model is calibrated with: text of another kind than it was trained on, as it will often be.
const CALIBRATION_TEXT: &str = "docs/book";

/// A format, and what it may cost.
struct Row {
    name: &'static str,
    args: &'static [&'static str],
    /// In percent of perplexity, where there is a bound.
    bound: Option<f64>,
    /// Whether outliers may cost no more than twice that.
    outliers: bool,
}

const fn row(name: &'static str, args: &'static [&'static str], bound: Option<f64>, outliers: bool) -> Row {
    Row { name, args, bound, outliers }
}

const STATIC: [&str; 2] = ["--activation-scales", "static"];

const ROWS: [Row; 11] = [
    row("int8-weight", &["--precision", "int8-weight"], Some(0.3), false),
    row("int8-smoothquant", &["--precision", "int8-smoothquant"], Some(1.5), true),
    row("int8-smoothquant, static", &["--precision", "int8-smoothquant", STATIC[0], STATIC[1]], Some(1.5), false),
    row("fp8", &["--precision", "fp8"], Some(1.0), true),
    row("fp8, static", &["--precision", "fp8", STATIC[0], STATIC[1]], None, false),
    row("fp8-block", &["--precision", "fp8-block"], None, false),
    row("int4", &["--precision", "int4"], None, false),
    row("int4-awq", &["--precision", "int4-awq"], Some(5.0), true),
    row("int4-gptq", &["--precision", "int4-gptq"], Some(5.0), false),
    row("bf16, KV cache fp8", &["--kv-precision", "fp8"], Some(0.5), false),
    row("bf16, KV cache int8", &["--kv-precision", "int8"], None, false),
];

/// What a choice layer by layer may cost, in percent of perplexity.
const MIXED_BOUND: f64 = 1.0;
/// What it chooses from: the formats that need no calibration, and all.
const MIXED: [(&str, &str); 2] = [
    ("from formats that need no calibration", "int8-weight,fp8,fp8-block,int4"),
    ("from all formats", "int8-weight,int8-smoothquant,fp8,fp8-block,int4,int4-awq,int4-gptq"),
];

/// Measures, writes the result and the page's table.
pub fn run(root: &Path) -> Result<(), String> {
    run_command(&mut cargo(root, ["build", "--release", "-p", "cli"]))?;
    let smelt = Smelt { root, folder: root.join("target/bench/accuracy") };
    std::fs::create_dir_all(&smelt.folder).map_err(|error| error.to_string())?;
    let place = |name: &str| smelt.folder.join(name).to_string_lossy().into_owned();
    let (text, planted) = (place("book.txt"), place("planted"));
    std::fs::write(&text, book(root)?).map_err(|error| error.to_string())?;
    let plant = ["run", "--release", "-p", "tests", "--example", "plant_outliers", "--", DEMO, &planted];
    run_command(&mut cargo(root, plant))?;
    let models = [(DEMO, place("demo.json")), (&planted, place("planted.json"))];
    let mut measured: Vec<Vec<f64>> = Vec::new();
    for (model, calibration) in &models {
        let args = ["calibrate", model, "--text", &text, "-o", calibration, "--hessian", "--target", "cpu", "--json"];
        smelt.json(&args)?;
        let perplexity = |args: &[&str]| {
            let fixed = ["eval", model, "--text", TEXT, "--target", "cpu", "--calibration", calibration, "--json"];
            number(&smelt.json(&[&fixed[..], args].concat())?, "/perplexity")
        };
        let all = std::iter::once(&[][..]).chain(ROWS.iter().map(|row| row.args));
        measured.push(all.map(perplexity).collect::<Result<_, _>>()?);
    }
    let rounded = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
    let increase = |model: usize, row: usize| rounded(100.0 * (measured[model][row] / measured[model][0] - 1.0), 2);
    let formats = ROWS.iter().zip(1..).map(|(row, index)| {
        json!({
            "format": row.name,
            "perplexity": rounded(measured[0][index], 4),
            "increase_percent": increase(0, index),
            "increase_percent_with_outliers": increase(1, index),
            "at_most_percent": row.bound,
            "at_most_percent_with_outliers": row.bound.filter(|_| row.outliers).map(|bound| 2.0 * bound),
        })
    });
    let mut bits = Value::Null;
    let mut mixed = Vec::new();
    for (name, formats) in MIXED {
        let (plan, bound) = (place("mixed.plan"), format!("{MIXED_BOUND}%"));
        let goal = ["--max-perplexity-increase", &bound, "--formats", formats, "--precision-text", TEXT];
        let fixed = ["compile", DEMO, "-o", &plan, "--target", "cpu", "--calibration", &models[0].1];
        smelt.json(&[&fixed[..], &["--precision", "mixed"], &goal, &["--json"]].concat())?;
        let chosen = smelt.json(&["inspect", &plan, "--precision", "--json"])?;
        let perplexity = number(&smelt.json(&["eval", &plan, "--text", TEXT, "--json"])?, "/perplexity")?;
        let mut notes = chosen["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let summary = notes.next().unwrap_or_default();
        bits = notes.next().map(uniform_bits).ok_or("the choice does not say what formats have")?;
        mixed.push(json!({
            "chosen": name,
            "bits": summary.split(' ').next().and_then(|bits| bits.parse::<f64>().ok()),
            "perplexity": rounded(perplexity, 4),
            "increase_percent": rounded(100.0 * (perplexity / measured[0][0] - 1.0), 2),
            "at_most_percent": MIXED_BOUND,
        }));
    }
    let result = json!({
        "schema_version": 1,
        "model": DEMO,
        "text": TEXT,
        "calibration_text": CALIBRATION_TEXT,
        "perplexity_bf16": rounded(measured[0][0], 4),
        "formats": formats.collect::<Vec<_>>(),
        "bits": bits,
        "mixed": mixed,
    });
    keep(root, RESULT, &result)
}

/// `… all: int8-weight 8.06, fp8 8.06` as an object.
fn uniform_bits(note: &str) -> Value {
    let formats = note.rsplit(": ").next().unwrap_or_default().split(", ");
    let bits = formats.filter_map(|format| format.split_once(' '));
    bits.filter_map(|(name, bits)| Some((name.to_owned(), Value::from(bits.parse::<f64>().ok()?)))).collect()
}

/// The pages of the book, one behind the other.
fn book(root: &Path) -> Result<String, String> {
    let folder = root.join(CALIBRATION_TEXT);
    let error = |error: std::io::Error| format!("{CALIBRATION_TEXT}: {error}");
    let entries = std::fs::read_dir(&folder).map_err(error)?;
    let mut pages =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(error)?;
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages.iter().map(|page| std::fs::read_to_string(page).map_err(error)).collect()
}

/// A row for each format.
pub fn table(result: &Value) -> Result<String, String> {
    let mut text = format!(
        "| format | bits a weight | perplexity | against bf16 | at most | with outliers | at most |\n{}\n\
         | bf16 | 16 | {} | | | | |\n",
        "| --- | --- | --- | --- | --- | --- | --- |",
        number(result, "/perplexity_bf16")?
    );
    let list = |name: &str| result[name].as_array().ok_or(format!("there is no list `{name}`"));
    for row in list("formats")?.iter().chain(list("mixed")?) {
        let percent = |name: &str| row[name].as_f64().map_or_else(String::new, |value| format!("{value:+} %"));
        let format = row["format"].as_str().unwrap_or_default();
        let (name, bits) = match row["chosen"].as_str() {
            Some(chosen) => (format!("mixed, {chosen}"), &row["bits"]),
            None => (format.to_owned(), &result["bits"][format.split(',').next().unwrap_or_default()]),
        };
        let bits = bits.as_f64().map_or_else(String::new, |bits| format!("{bits:.2}"));
        text.push_str(&format!(
            "| {name} | {bits} | {} | {} | {} | {} | {} |\n",
            number(row, "/perplexity")?,
            percent("increase_percent"),
            percent("at_most_percent"),
            percent("increase_percent_with_outliers"),
            percent("at_most_percent_with_outliers"),
        ));
    }
    Ok(text)
}
