//! `cargo xtask bench --accuracy`: the perplexity of the demo model in each format on its held-out text, as it is and with
//! outliers among its activations, kept in `bench/accuracy.json`.

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

const ROWS: [Row; 9] = [
    row("int8-weight", &["--precision", "int8-weight"], Some(0.3), false),
    row("int8-smoothquant", &["--precision", "int8-smoothquant"], Some(1.5), true),
    row("int8-smoothquant, static", &["--precision", "int8-smoothquant", STATIC[0], STATIC[1]], Some(1.5), false),
    row("fp8", &["--precision", "fp8"], Some(1.0), true),
    row("fp8, static", &["--precision", "fp8", STATIC[0], STATIC[1]], None, false),
    row("fp8-block", &["--precision", "fp8-block"], None, false),
    row("int4", &["--precision", "int4"], None, false),
    row("int4-awq", &["--precision", "int4-awq"], Some(5.0), true),
    row("int4-gptq", &["--precision", "int4-gptq"], Some(5.0), false),
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
    let result = json!({
        "schema_version": 1,
        "model": DEMO,
        "text": TEXT,
        "calibration_text": CALIBRATION_TEXT,
        "perplexity_bf16": rounded(measured[0][0], 4),
        "formats": formats.collect::<Vec<_>>(),
    });
    keep(root, RESULT, &result)
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
        "| format | perplexity | against bf16 | at most | with outliers | at most |\n{}\n| bf16 | {} | | | | |\n",
        "| --- | --- | --- | --- | --- | --- |",
        number(result, "/perplexity_bf16")?
    );
    for row in result["formats"].as_array().ok_or("there is no list `formats`")? {
        let percent = |name: &str| row[name].as_f64().map_or_else(String::new, |value| format!("{value:+} %"));
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            row["format"].as_str().unwrap_or_default(),
            number(row, "/perplexity")?,
            percent("increase_percent"),
            percent("at_most_percent"),
            percent("increase_percent_with_outliers"),
            percent("at_most_percent_with_outliers"),
        ));
    }
    Ok(text)
}
