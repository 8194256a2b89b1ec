//! `cargo xtask bench --passes`: what the steps of a compilation take for models of 10, 100 and 1000 layers, as criterion
//! measured it, kept in `bench/passes.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{cpu_name, keep, number, round};
use crate::process::{cargo, run as run_command};

pub const RESULT: &str = "bench/passes.json";
const LAYERS: [&str; 3] = ["10", "100", "1000"];

/// Measures, writes the result and the book's table.
pub fn run(root: &Path) -> Result<(), String> {
    let criterion = root.join("target/criterion");
    if criterion.exists() {
        // steps of old would stay
        std::fs::remove_dir_all(&criterion).map_err(|error| format!("{}: {error}", criterion.display()))?;
    }
    run_command(&mut cargo(root, ["bench", "-p", "tests", "--bench", "passes"]))?;
    let entries = std::fs::read_dir(&criterion).map_err(|error| format!("{}: {error}", criterion.display()))?;
    let mut steps = Map::new();
    for entry in entries {
        let folder = entry.map_err(|error| error.to_string())?.path();
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let times: Result<Map<String, Value>, String> = LAYERS
            .iter()
            .map(|layers| Ok(((*layers).to_owned(), json!(round(median_ms(&folder.join(layers))?)))))
            .collect();
        steps.insert(name, Value::Object(times?));
    }
    steps.sort_keys();
    keep(root, RESULT, &json!({ "schema_version": 1, "cpu": cpu_name(), "ms_by_layers": steps }))
}

/// The median that criterion found.
fn median_ms(folder: &Path) -> Result<f64, String> {
    let path = folder.join("new/estimates.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let estimates: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(number(&estimates, "/median/point_estimate")? / 1e6)
}

/// A row for each step.
pub fn table(result: &Value) -> Result<String, String> {
    let steps = result["ms_by_layers"].as_object().ok_or("there is no object `ms_by_layers`")?;
    let mut text = "| step | 10 layers | 100 layers | 1000 layers |\n| --- | --- | --- | --- |\n".to_owned();
    for (name, times) in steps {
        let cells: Result<Vec<String>, String> =
            LAYERS.iter().map(|layers| Ok(format!("{} ms", number(times, &format!("/{layers}"))?))).collect();
        text.push_str(&format!("| {name} | {} |\n", cells?.join(" | ")));
    }
    Ok(text)
}
