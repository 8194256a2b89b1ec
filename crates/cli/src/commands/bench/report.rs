//! What a benchmark found: the JSON for machines, tables for people.

use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter};

use super::stats::Quantiles;

/// The version of the JSON that is written and read.
pub const SCHEMA_VERSION: u32 = 2;

/// What a benchmark found, and where it was found. Times in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub schema_version: u32,
    pub program: Program,
    /// The command line.
    pub command: Vec<String>,
    /// When it began, in seconds since 1970.
    pub unix_time: u64,
    pub device: Device,
    pub model: Model,
    pub plan: PlanId,
    /// What the figures are held against.
    pub ceilings: Ceilings,
    /// What prompts were drawn from.
    pub seed: u64,
    pub num_runs: usize,
    pub warmup_runs: usize,
    /// From the plan file to the first possible step.
    pub load_ms: f64,
    pub results: Vec<Row>,
    /// Beside an older report, if one was named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparison: Vec<Change>,
}

/// The program that measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    pub version: String,
    /// The git revision that it was built from, `-dirty` where files had changed.
    pub revision: Option<String>,
}

/// The device that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub target: String,
    /// Threads of a CPU.
    pub threads: Option<usize>,
    /// Version of the driver of a GPU.
    pub driver: Option<String>,
    /// While runs were measured: the smallest and the largest value.
    pub sm_mhz: Option<[u32; 2]>,
    pub memory_mhz: Option<[u32; 2]>,
    pub power_w: Option<[u32; 2]>,
    pub temperature_c: Option<[u32; 2]>,
}

/// The model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    pub architecture: String,
    pub parameters: u64,
    pub layers: u32,
    /// Bytes of its weights, quantized ones as they are stored.
    pub weight_bytes: u64,
}

/// The plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanId {
    /// BLAKE3 of its header, which has the hashes of all else.
    pub blake3: String,
    /// Formats and limits that it was compiled with.
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// What the machine can do at most.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ceilings {
    /// `measured` by this run, or from a `table`.
    pub source: String,
    pub read_gb_per_s: f64,
    /// What this program's own kernel reaches.
    pub products: Vec<Product>,
}

impl Ceilings {
    pub fn of(ceilings: &smelt::Ceilings) -> Ceilings {
        let products = ceilings.products.iter().map(|of| Product {
            dtype: of.dtype.to_string(),
            size: of.size,
            tflops: of.flops_per_s / 1e12,
        });
        Ceilings {
            source: ceilings.source().name().to_owned(),
            read_gb_per_s: ceilings.read_bytes_per_s / 1e9,
            products: products.collect(),
        }
    }
}

/// A square matrix product.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Product {
    pub dtype: String,
    /// Rows and columns of each matrix, where it was measured.
    pub size: Option<u64>,
    pub tflops: f64,
}

/// One batch size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub batch_size: usize,
    pub input_len: usize,
    pub output_len: u32,
    /// Until the last sequence of a run had its first token.
    pub ttft_ms: Quantiles,
    /// Until the first one had.
    pub ttft_first_ms: Quantiles,
    /// Time per token after the first: the mean over the sequences of a run.
    pub tpot_ms: Option<Quantiles>,
    /// The same of each sequence of each run.
    pub requests: Requests,
    /// All generated tokens over the time of all runs.
    pub tokens_per_s: f64,
    /// The median over runs, of the steps in which all sequences decode.
    pub decode_tokens_per_s: Option<f64>,
    /// Tokens that a sequence has in such a step, the mean.
    pub context: Option<f64>,
    /// Bytes that such a step has to read, over its time.
    pub read_gb_per_s: Option<f64>,
    pub read_ceiling_percent: Option<f64>,
    /// Arithmetic of the prompts, over the time to the last first token.
    pub tflops: Option<f64>,
    pub compute_ceiling_percent: Option<f64>,
    /// (step - bytes / read ceiling - 25 us) / layers.
    pub us_per_layer_beyond_bytes: Option<f64>,
    pub samples: Samples,
}

/// Sequences of all runs apart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Requests {
    pub ttft_ms: Quantiles,
    pub tpot_ms: Option<Quantiles>,
}

/// A value for each run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Samples {
    pub ttft_ms: Vec<f64>,
    pub ttft_first_ms: Vec<f64>,
    pub tpot_ms: Vec<f64>,
    pub tokens_per_s: Vec<f64>,
    pub decode_tokens_per_s: Vec<f64>,
}

/// A report as JSON: an object's fields on lines of their own, a list of samples on one.
pub fn json(report: &Report) -> serde_json::Result<String> {
    let mut text = Vec::new();
    report.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Lines::default()))?;
    text.push(b'\n');
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Objects as the pretty printer has them, lists without line breaks.
#[derive(Default)]
struct Lines(PrettyFormatter<'static>);

impl Formatter for Lines {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        self.0.end_object_value(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

/// A column of the table: its title, and its cell in a row.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: [Column; 9] = [
    ("batch", |row| row.batch_size.to_string()),
    ("first token ms", |row| spread(Some(row.ttft_ms))),
    ("of the first sequence", |row| number(row.ttft_first_ms.p50)),
    ("per token ms", |row| spread(row.tpot_ms)),
    ("tokens/s", |row| number(row.tokens_per_s)),
    ("decode tokens/s", |row| optional(row.decode_tokens_per_s)),
    ("read GB/s", |row| share(row.read_gb_per_s, row.read_ceiling_percent)),
    ("prompt TFLOP/s", |row| share(row.tflops, row.compute_ceiling_percent)),
    ("us/layer beyond bytes", |row| optional(row.us_per_layer_beyond_bytes)),
];

/// Minimum, median and 99th percentile.
fn spread(quantiles: Option<Quantiles>) -> String {
    let Some(Quantiles { min, p50, p99 }) = quantiles else { return "-".to_owned() };
    let p99 = p99.map_or("-".to_owned(), number);
    format!("{} / {} / {p99}", number(min), number(p50))
}

fn share(value: Option<f64>, percent: Option<f64>) -> String {
    match (value, percent) {
        (Some(value), Some(percent)) => format!("{} ({percent:.0} %)", number(value)),
        (value, _) => optional(value),
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), number)
}

/// Four digits, and no more than there are.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size => (3 - size.log10().floor() as i32).clamp(0, 6),
    };
    format!("{value:.*}", digits as usize)
}

/// A figure in both reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub batch_size: usize,
    pub metric: String,
    pub old: f64,
    pub new: f64,
    pub percent: f64,
    /// How probable a difference like that between the samples is by chance.
    pub p: f64,
    /// The limit that it passes, if one was given.
    pub passes: Option<String>,
}

impl Report {
    /// Where and what was measured, a few lines.
    pub fn heading(&self) -> String {
        let Device { name, target, driver, .. } = &self.device;
        let mut device = vec![name.clone()];
        device.extend(Some(target.clone()).filter(|target| target != "cpu"));
        device.extend(driver.as_ref().map(|driver| format!("driver {driver}")));
        device.extend(self.device.sm_mhz.map(|[min, max]| format!("SM clock {min} to {max} MHz")));
        device.extend(self.device.power_w.map(|[_, max]| format!("at most {max} W")));
        let config = |key: &str| self.plan.config.get(key).and_then(serde_json::Value::as_str);
        let dtype = config("dtype").unwrap_or("unknown dtype");
        let mut model = vec![
            self.model.architecture.clone(),
            format!("{} parameters", billions(self.model.parameters)),
            config("precision").map_or(dtype.to_owned(), |precision| format!("{precision} linears, {dtype}")),
        ];
        model.extend(config("lm_head_precision").map(|head| format!("lm_head {head}")));
        model.extend(config("kv_dtype").map(|kv| format!("KV cache {kv}")));
        model.extend(config("weights").filter(|weights| *weights == "dummy").map(|_| "random weights".to_owned()));
        let products = self.ceilings.products.iter();
        let products: String =
            products.map(|of| format!(", {} products {} TFLOP/s", of.dtype, number(of.tflops))).collect();
        let revision = self.program.revision.as_ref().map_or(String::new(), |revision| format!(" ({revision})"));
        let lengths =
            self.results.first().map(|row| format!("{} prompt tokens, {} generated", row.input_len, row.output_len));
        format!(
            "smelt {}{revision}\ndevice    {}\nmodel     {}\nceilings  read {} GB/s{products} ({})\n\
             load      {}\nruns      {} after {} of warm-up; times are minimum / median / 99th percentile\n",
            self.program.version,
            device.join(", "),
            model.join(", "),
            number(self.ceilings.read_gb_per_s),
            self.ceilings.source,
            lengths.unwrap_or_default(),
            self.num_runs,
            self.warmup_runs,
        )
    }

    /// For people.
    pub fn table(&self) -> String {
        let rows = self.cells();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
            cells.collect::<Vec<_>>().join("  ") + "\n"
        };
        format!("{}\n{}", self.heading(), rows.iter().map(line).collect::<String>())
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut lines: Vec<String> = self.cells().iter().map(|row| format!("| {} |\n", row.join(" | "))).collect();
        lines.insert(1, format!("|{}\n", " ---: |".repeat(COLUMNS.len())));
        format!("```text\n{}```\n\n{}", self.heading(), lines.concat())
    }

    /// Titles and rows.
    fn cells(&self) -> Vec<Vec<String>> {
        let titles = COLUMNS.iter().map(|(title, _)| (*title).to_owned()).collect();
        let row = |row: &Row| COLUMNS.iter().map(|(_, cell)| cell(row)).collect();
        std::iter::once(titles).chain(self.results.iter().map(row)).collect()
    }

    /// A line for each batch size, every figure in a field of its own.
    pub fn csv(&self) -> String {
        let mut text =
            "batch_size,input_len,output_len,ttft_min_ms,ttft_p50_ms,ttft_p99_ms,ttft_first_p50_ms,tpot_min_ms,\
                        tpot_p50_ms,tpot_p99_ms,tokens_per_s,decode_tokens_per_s,read_gb_per_s,read_ceiling_percent,\
                        tflops,compute_ceiling_percent,us_per_layer_beyond_bytes\n"
                .to_owned();
        for row in &self.results {
            let tpot = row.tpot_ms;
            let numbers = [
                Some(row.ttft_ms.min),
                Some(row.ttft_ms.p50),
                row.ttft_ms.p99,
                Some(row.ttft_first_ms.p50),
                tpot.map(|tpot| tpot.min),
                tpot.map(|tpot| tpot.p50),
                tpot.and_then(|tpot| tpot.p99),
                Some(row.tokens_per_s),
                row.decode_tokens_per_s,
                row.read_gb_per_s,
                row.read_ceiling_percent,
                row.tflops,
                row.compute_ceiling_percent,
                row.us_per_layer_beyond_bytes,
            ];
            let numbers: String =
                numbers.iter().map(|number| format!(",{}", number.map_or(String::new(), |n| n.to_string()))).collect();
            text.push_str(&format!("{},{},{}{numbers}\n", row.batch_size, row.input_len, row.output_len));
        }
        text
    }
}

fn billions(count: u64) -> String {
    match count {
        1_000_000_000.. => format!("{:.2} B", count as f64 / 1e9),
        _ => format!("{:.1} M", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let shown = [0.0, 0.012345, 1.23456, 12.3456, 123.456, 1234.56, 123456.7, -5.4321].map(number);
        assert_eq!(shown, ["0", "0.01235", "1.235", "12.35", "123.5", "1235", "123457", "-5.432"]);
    }
}
