//! Tables of what `smelt bench` measured on an H200, beside what others reach there.

use serde_json::Value;

use super::{number, round};

/// The reports: what is compared with peers first.
pub const REPORTS: [&str; 6] = [
    "bench/h200/llama-3.1-8b-bf16.json",
    "bench/h200/llama-3.1-8b-bf16-large.json",
    "bench/h200/llama-3.1-8b-fp8.json",
    "bench/h200/llama-3.1-8b-fp8-large.json",
    "bench/h200/llama-3.1-8b-int4.json",
    "bench/peers.json",
];

/// All reports, and their titles.
pub const SHAPES: [(&str, &str); 10] = [
    (REPORTS[0], "Llama-3.1-8B, bf16"),
    (REPORTS[1], "Llama-3.1-8B, bf16"),
    (REPORTS[2], "Llama-3.1-8B, fp8"),
    (REPORTS[3], "Llama-3.1-8B, fp8"),
    (REPORTS[4], "Llama-3.1-8B, int4"),
    ("bench/h200/llama-3.2-1b-bf16.json", "Llama-3.2-1B, bf16"),
    ("bench/h200/qwen3-8b-bf16.json", "Qwen3-8B, bf16"),
    ("bench/h200/llama-3.1-8b-bf16-long-4096.json", "Llama-3.1-8B, bf16"),
    ("bench/h200/llama-3.1-8b-bf16-long-16384.json", "Llama-3.1-8B, bf16"),
    ("bench/h200/llama-3.1-8b-bf16-long-32768.json", "Llama-3.1-8B, bf16"),
];

/// Batch sizes that the first table has.
const BATCHES: [u64; 5] = [1, 8, 16, 32, 128];

/// smelt and its peers, format by format: decode tokens per second, then first tokens.
pub fn headline(results: &[Value]) -> Result<String, String> {
    let (peers, reports) = results.split_last().ok_or("there are no reports")?;
    let mut lines = vec![("smelt, bf16", rows(&reports[..2])), ("smelt, fp8", rows(&reports[2..4]))];
    lines.push(("smelt, int4", rows(&reports[4..])));
    let others = peers["peers"].as_array().ok_or("there is no list `peers`")?;
    let title = |text: &str| {
        let batches: String = BATCHES.iter().map(|batch| format!(" batch {batch} |")).collect();
        format!("| {text} |{batches}\n|{}\n", " --- |".repeat(BATCHES.len() + 1))
    };
    let cell = |value: Option<f64>| value.map_or(String::new(), |value| round(value).to_string());
    let table = |text: &str, own: &dyn Fn(&Value) -> Option<f64>, other: &str| {
        let mut table = title(text);
        for (name, rows) in &lines {
            let cells: String = BATCHES
                .iter()
                .map(|batch| format!(" {} |", cell(rows.iter().find(|row| row["batch_size"] == *batch).and_then(own))))
                .collect();
            table.push_str(&format!("| **{name}** |{cells}\n"));
        }
        for peer in others.iter().filter(|peer| peer.get(other).is_some()) {
            let cells: String =
                BATCHES.iter().map(|batch| format!(" {} |", cell(peer[other][batch.to_string()].as_f64()))).collect();
            table.push_str(&format!("| {} |{cells}\n", peer["name"].as_str().unwrap_or_default()));
        }
        table
    };
    let decode = table("decode tokens/s", &|row| row["decode_tokens_per_s"].as_f64(), "decode_tokens_per_s");
    let first = table("first tokens, ms", &|row| row.pointer("/ttft_ms/p50")?.as_f64(), "ttft_ms");
    Ok(format!("{decode}\n{first}"))
}

fn rows(reports: &[Value]) -> Vec<Value> {
    reports.iter().filter_map(|report| report["results"].as_array()).flatten().cloned().collect()
}

/// Every row of every report.
pub fn all(results: &[Value]) -> Result<String, String> {
    let mut table =
        "| shape, format | batch | prompt + generated | runs | first tokens ms | per token ms | tokens/s | decode \
                     tokens/s | read ceiling | us/layer beyond bytes |\n"
            .to_owned();
    table.push_str(&format!("|{}\n", " --- |".repeat(10)));
    for (report, (_, title)) in results.iter().zip(SHAPES) {
        for row in report["results"].as_array().ok_or_else(|| format!("{title}: there is no list `results`"))? {
            let figure = |pointer: &str| match row.pointer(pointer).and_then(Value::as_f64) {
                Some(value) => round(value).to_string(),
                None => "-".to_owned(),
            };
            table.push_str(&format!(
                "| {title} | {} | {} + {} | {} | {} | {} | {} | {} | {:.0} % | {} |\n",
                row["batch_size"],
                row["input_len"],
                row["output_len"],
                report["num_runs"],
                figure("/ttft_ms/p50"),
                figure("/tpot_ms/p50"),
                figure("/tokens_per_s"),
                figure("/decode_tokens_per_s"),
                number(row, "/read_ceiling_percent")?,
                figure("/us_per_layer_beyond_bytes"),
            ));
        }
    }
    Ok(table)
}
