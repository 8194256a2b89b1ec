//! `--compare OLD.json --fail-if 'tpot_p50>+3%'`: whether a benchmark got worse.

use std::path::Path;
use std::str::FromStr;

use smelt::plans::input::{self, TEXT_BYTES};

use super::report::{Change, Report, Row, SCHEMA_VERSION, number};
use super::stats::rank_sum_p;
use crate::args::unknown;
use crate::failure::Failure;
use crate::inputs::not_read;
use crate::output::reads;

/// Below this probability of chance, samples differ.
const SIGNIFICANT: f64 = 0.01;

/// A figure of a row: its name, its value, and its samples.
struct Metric {
    name: &'static str,
    value: fn(&Row) -> Option<f64>,
    samples: fn(&Row) -> &[f64],
}

const METRICS: [Metric; 8] = [
    Metric { name: "ttft_min", value: |row| Some(row.ttft_ms.min), samples: |row| &row.samples.ttft_ms },
    Metric { name: "ttft_p50", value: |row| Some(row.ttft_ms.p50), samples: |row| &row.samples.ttft_ms },
    Metric { name: "ttft_p99", value: |row| row.ttft_ms.p99, samples: |row| &row.samples.ttft_ms },
    Metric { name: "tpot_min", value: |row| Some(row.tpot_ms?.min), samples: |row| &row.samples.tpot_ms },
    Metric { name: "tpot_p50", value: |row| Some(row.tpot_ms?.p50), samples: |row| &row.samples.tpot_ms },
    Metric { name: "tpot_p99", value: |row| row.tpot_ms?.p99, samples: |row| &row.samples.tpot_ms },
    Metric { name: "tokens_per_s", value: |row| Some(row.tokens_per_s), samples: |row| &row.samples.tokens_per_s },
    Metric {
        name: "decode_tokens_per_s",
        value: |row| row.decode_tokens_per_s,
        samples: |row| &row.samples.decode_tokens_per_s,
    },
];

/// What a report shows beside an older one without being asked for more.
const SHOWN: [&str; 3] = ["ttft_p50", "tpot_p50", "decode_tokens_per_s"];

/// How far a figure may move: `tpot_p50>+3%`, `tokens_per_s<-2%`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    metric: usize,
    /// Whether more is worse.
    above: bool,
    percent: f64,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Limit, String> {
        let expected = || format!("expected a limit such as tpot_p50>+3% or tokens_per_s<-3%, found `{text}`");
        let at = text.find(['<', '>']).ok_or_else(expected)?;
        let (name, rest) = (text[..at].trim(), text[at + 1..].trim());
        let metric = METRICS.iter().position(|metric| metric.name == name).ok_or_else(|| {
            let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
            unknown("figure", name, &names)
        })?;
        let percent = rest.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
        let percent = percent.filter(|percent| percent.is_finite()).ok_or_else(expected)?;
        Ok(Limit { metric, above: text[at..].starts_with('>'), percent })
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{:+}%", METRICS[self.metric].name, if self.above { '>' } else { '<' }, self.percent)
    }
}

/// An older report.
pub struct Baseline(Report);

impl Baseline {
    /// Reads the file that an earlier run wrote.
    pub fn read(path: &Path) -> Result<Baseline, Failure> {
        reads(path);
        let bad = |reason: String| Failure::bad_input(format!("{}: {reason}", path.display()));
        let text = input::read_text(path, TEXT_BYTES).map_err(|error| not_read("--compare", path, error))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| bad(format!("is not JSON: {error}")))?;
        if value.get("schema_version").and_then(serde_json::Value::as_u64) != Some(u64::from(SCHEMA_VERSION)) {
            return Err(bad(format!("is not a report of `smelt bench --json` of schema {SCHEMA_VERSION}")));
        }
        let report = serde_json::from_value(value).map_err(|error| bad(format!("is not a report: {error}")))?;
        Ok(Baseline(report))
    }

    /// Refuses a report of something else than what will be measured. `new` has no results yet, `rows` are the batch
    /// sizes and lengths they will have.
    pub fn check(&self, new: &Report, rows: &[[usize; 3]], limits: &[Limit]) -> Result<(), Failure> {
        let old = &self.0;
        let other = |what: &str, old: &str, new: &str| {
            Err(Failure::bad_input(format!("the report to compare with is of another {what}: {old}, this is {new}")))
        };
        let device = |report: &Report| format!("{} ({})", report.device.name, report.device.target);
        if device(old) != device(new) {
            return other("device", &device(old), &device(new));
        }
        if old.device.threads != new.device.threads {
            let threads = |report: &Report| format!("{} threads", report.device.threads.unwrap_or(0));
            return other("number of threads", &threads(old), &threads(new));
        }
        let model = |report: &Report| {
            let model = &report.model;
            format!("{} of {} layers and {} parameters", model.architecture, model.layers, model.parameters)
        };
        if model(old) != model(new) {
            return other("model", &model(old), &model(new));
        }
        for row in rows {
            let [batch, input, output] = row;
            let Some(found) = old.results.iter().find(|old| shape(old) == *row) else {
                return Err(Failure::bad_input(format!(
                    "the report to compare with has no batch of {batch} with {input} prompt tokens and {output} generated"
                )));
            };
            for limit in limits {
                let (a, b) = ((METRICS[limit.metric].samples)(found).len(), new.num_runs);
                if a > 0 && smallest_p(a, b) >= SIGNIFICANT {
                    return Err(Failure::usage(format!(
                        "--fail-if: {a} runs beside {b} cannot tell a difference from chance (p < {SIGNIFICANT}); \
                         expected at least 5 in each"
                    )));
                }
            }
        }
        Ok(())
    }

    /// What changed: the figures that are always shown, and those with limits.
    pub fn changes(&self, rows: &[Row], limits: &[Limit]) -> Vec<Change> {
        let of_row = |new: &Row| {
            let old = self.0.results.iter().find(|old| shape(old) == shape(new));
            let metrics = METRICS.iter().enumerate().filter(|(index, metric)| {
                SHOWN.contains(&metric.name) || limits.iter().any(|limit| limit.metric == *index)
            });
            let changes = metrics.filter_map(|(index, metric)| {
                let old = old?;
                let (before, now) = ((metric.value)(old)?, (metric.value)(new)?);
                let percent = (now / before - 1.0) * 100.0;
                let p = rank_sum_p((metric.samples)(old), (metric.samples)(new));
                let passes = limits.iter().filter(|limit| limit.metric == index).find(|limit| {
                    let passed = if limit.above { percent > limit.percent } else { percent < limit.percent };
                    passed && p < SIGNIFICANT
                });
                Some(Change {
                    batch_size: new.batch_size,
                    metric: metric.name.to_owned(),
                    old: before,
                    new: now,
                    percent,
                    p,
                    passes: passes.map(Limit::to_string),
                })
            });
            changes.collect::<Vec<_>>()
        };
        rows.iter().flat_map(of_row).collect()
    }
}

fn shape(row: &Row) -> [usize; 3] {
    [row.batch_size, row.input_len, row.output_len as usize]
}

/// The p-value of samples that do not overlap at all.
fn smallest_p(a: usize, b: usize) -> f64 {
    // as many as the binomial coefficient of a + b over a, two of which are the ends
    let choices = (1..=a).fold(1.0, |choices, i| choices * (b + i) as f64 / i as f64);
    2.0 / choices
}

/// A line for each figure.
pub fn table(changes: &[Change]) -> String {
    let line = |change: &Change| {
        let Change { batch_size, metric, old, new, percent, p, passes } = change;
        let verdict = match passes {
            Some(limit) => format!(", beyond {limit}"),
            None if *p < SIGNIFICANT => String::new(),
            None => ", not more than chance".to_owned(),
        };
        let (old, new) = (number(*old), number(*new));
        format!("batch {batch_size}: {metric} {old} -> {new} ({percent:+.2} %, p = {p:.2}{verdict})\n")
    };
    changes.iter().map(line).collect()
}

/// The failure of changes that pass their limits, if any does.
pub fn gate(changes: &[Change]) -> Result<(), Failure> {
    let beyond: Vec<String> = changes
        .iter()
        .filter_map(|change| {
            let limit = change.passes.as_ref()?;
            Some(format!("batch {}: {} {:+.2} % (limit {limit})", change.batch_size, change.metric, change.percent))
        })
        .collect();
    if beyond.is_empty() { Ok(()) } else { Err(Failure::slower(beyond.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::super::stats::{Quantiles, median};
    use super::*;

    #[test]
    fn limits_are_read_and_printed() {
        for text in ["tpot_p50>+3%", "tokens_per_s<-2.5%", "ttft_p99>+0%"] {
            assert_eq!(text.parse::<Limit>().unwrap().to_string(), text);
        }
        assert_eq!(" tpot_p50 > 3 %".parse::<Limit>().unwrap().to_string(), "tpot_p50>+3%");
        for text in ["", "tpot_p50", "tpot_p50>3", "tpot_p50>%", "tpot_p50>NaN%", "speed>3%", "tpot_p50>+1e999%"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }

    fn row(tpot: &[f64]) -> Row {
        let quantiles = Quantiles::of(tpot.iter().copied()).unwrap();
        Row {
            batch_size: 1,
            input_len: 8,
            output_len: 8,
            ttft_ms: quantiles,
            ttft_first_ms: quantiles,
            tpot_ms: Some(quantiles),
            requests: super::super::report::Requests { ttft_ms: quantiles, tpot_ms: None },
            tokens_per_s: 1.0,
            decode_tokens_per_s: median(tpot.iter().copied()).map(|ms| 1e3 / ms),
            context: None,
            read_gb_per_s: None,
            read_ceiling_percent: None,
            tflops: None,
            compute_ceiling_percent: None,
            us_per_layer_beyond_bytes: None,
            samples: super::super::report::Samples { tpot_ms: tpot.to_vec(), ..Default::default() },
        }
    }

    /// Times per output token in ms, as an H200 gave them: the first 40 of 100 runs of the Llama-3.1-8B shape in bf16 at
    /// batch 1, 512 prompt tokens and 128 generated (2026-11-30, revision 72385502775b).
    const RECORDED: [f64; 40] = [
        3.69383, 3.69535, 3.69405, 3.69567, 3.69753, 3.69768, 3.69625, 3.6953, 3.69446, 3.69365, 3.69236, 3.69352,
        3.69294, 3.69324, 3.69493, 3.69483, 3.69449, 3.6959, 3.69582, 3.69764, 3.69717, 3.6971, 3.69516, 3.69503,
        3.69118, 3.69059, 3.69201, 3.69339, 3.69393, 3.69477, 3.6958, 3.69468, 3.6958, 3.69606, 3.69566, 3.69673,
        3.69781, 3.69579, 3.69543, 3.69383,
    ];

    #[test]
    fn only_what_is_slower_than_allowed_and_no_chance_fails() {
        let limits = ["tpot_p50>+3%".parse::<Limit>().unwrap(), "tpot_p50>+0%".parse().unwrap()];
        // each draw takes ten of the recorded runs, with replacement
        let mut state = 1_u64;
        let mut draw = |factor: f64| -> Vec<f64> {
            let mut one = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                RECORDED[(state >> 33) as usize % RECORDED.len()] * factor
            };
            (0..10).map(|_| one()).collect()
        };
        let mut fired = [0; 4];
        for _ in 0..1000 {
            let old = row(&draw(1.0));
            let fires = |new: Vec<f64>, limit: &Limit| {
                let baseline = Baseline(report(old.clone()));
                baseline.changes(&[row(&new)], std::slice::from_ref(limit)).iter().any(|change| change.passes.is_some())
            };
            fired[0] += usize::from(fires(draw(1.0), &limits[0]));
            fired[1] += usize::from(fires(draw(1.02), &limits[0]));
            fired[2] += usize::from(fires(draw(1.04), &limits[0]));
            fired[3] += usize::from(fires(draw(1.0), &limits[1]));
        }
        assert_eq!(fired[..3], [0, 0, 1000]);
        // any increase at all: what is left is the test's own error, one half of 1 % as it looks at one side
        assert!(fired[3] <= 15, "{}", fired[3]);
    }

    #[test]
    fn too_few_runs_tell_nothing() {
        assert!(smallest_p(4, 4) > SIGNIFICANT && smallest_p(5, 5) < SIGNIFICANT && smallest_p(100, 1) > SIGNIFICANT);
        assert!((smallest_p(5, 5) - 2.0 / 252.0).abs() < 1e-12);
    }

    fn report(row: Row) -> Report {
        use super::super::report::{Ceilings, Device, Model, PlanId, Program};
        Report {
            schema_version: SCHEMA_VERSION,
            program: Program { version: "0".to_owned(), revision: None },
            command: Vec::new(),
            unix_time: 0,
            device: Device {
                name: "NVIDIA H200".to_owned(),
                target: "sm_90a".to_owned(),
                threads: None,
                driver: None,
                sm_mhz: None,
                memory_mhz: None,
                power_w: None,
                temperature_c: None,
            },
            model: Model { architecture: "L".to_owned(), parameters: 1, layers: 1, weight_bytes: 2 },
            plan: PlanId { blake3: String::new(), config: serde_json::Map::new() },
            ceilings: Ceilings { source: "table".to_owned(), read_gb_per_s: 4800.0, products: Vec::new() },
            seed: 0,
            num_runs: 10,
            warmup_runs: 1,
            load_ms: 1.0,
            results: vec![row],
            comparison: Vec::new(),
        }
    }

    #[test]
    fn reports_of_something_else_are_refused() {
        let base = Baseline(report(row(&RECORDED)));
        let same = report(row(&RECORDED));
        let limits = ["tpot_p50>+3%".parse::<Limit>().unwrap()];
        assert!(base.check(&same, &[[1, 8, 8]], &limits).is_ok());
        let error = |new: &Report, rows: &[[usize; 3]]| base.check(new, rows, &limits).unwrap_err().to_string();
        assert!(error(&same, &[[2, 8, 8]]).contains("no batch of 2"));
        let mut other = same.clone();
        other.device.name = "NVIDIA H100".to_owned();
        assert!(error(&other, &[[1, 8, 8]]).contains("another device"));
        let mut other = same.clone();
        other.model.layers = 2;
        assert!(error(&other, &[[1, 8, 8]]).contains("another model"));
        let few = Report { num_runs: 1, ..same };
        assert!(error(&few, &[[1, 8, 8]]).contains("cannot tell"));
    }
}
