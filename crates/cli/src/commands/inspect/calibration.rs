//! `smelt inspect calibration.json`: tensors with their ranges and the clips that each method chooses, as a table and
//! as a page of histograms.

use serde::Serialize;
use smelt::{Calibration, ClipMethod, DType, TensorStats};

use super::figures::{count, number_of};
use super::html::{Html, document};

/// Bars of a histogram: as many as a narrow picture can show.
const BARS: usize = 64;
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 60.0;
/// The clips that are shown, and the format that they are for.
const FORMAT: DType = DType::I8;

/// What is shown of a calibration.
#[derive(Serialize)]
pub struct Report<'a> {
    schema_version: u32,
    model: &'a str,
    samples: u64,
    tokens: u64,
    method: String,
    tensors: Vec<Row<'a>>,
}

/// What is shown of a tensor.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(skip)]
    stats: &'a TensorStats,
    channels: usize,
    absmax: f32,
    /// The clip of each of [`ClipMethod::ALL`], for 8-bit values.
    clips: [f32; 4],
    /// The clip of the calibration's own method.
    clip: f32,
    /// The largest channel over the median one; `None` if the median is zero.
    outlier_ratio: Option<f32>,
}

impl<'a> Report<'a> {
    /// Looks at a calibration.
    pub fn of(calibration: &'a Calibration) -> Report<'a> {
        let row = |(name, stats): (&'a String, &'a TensorStats)| {
            let absmax = stats.absmax();
            let mut channels = stats.channel_absmax.clone();
            channels.sort_by(f32::total_cmp);
            let middle = channels[channels.len() / 2];
            Row {
                name,
                stats,
                channels: stats.channels(),
                absmax,
                clips: ClipMethod::ALL.map(|method| stats.clip(method, FORMAT)),
                clip: stats.clip(calibration.method, FORMAT),
                outlier_ratio: (middle > 0.0).then_some(absmax / middle),
            }
        };
        let mut tensors: Vec<Row<'a>> = calibration.tensors.iter().map(row).collect();
        // layer 10 after layer 9
        tensors.sort_by_key(|row| (layer(row.name).unwrap_or(usize::MAX), row.name));
        Report {
            schema_version: 1,
            model: &calibration.model,
            samples: calibration.samples,
            tokens: calibration.tokens,
            method: calibration.method.to_string(),
            tensors,
        }
    }

    /// The table for a terminal.
    pub fn table(&self) -> String {
        let name = self.tensors.iter().map(|row| row.name.len()).max().unwrap_or(0).max("tensor".len());
        let mut out = format!("{}\n{:<name$}  channels     absmax", self.headline(), "tensor");
        for method in ClipMethod::ALL {
            out += &format!(" {:>16}", method.to_string());
        }
        out += "  outliers\n";
        for row in &self.tensors {
            out += &format!("{:<name$}  {:>8} {:>10.4}", row.name, row.channels, row.absmax);
            row.clips.iter().for_each(|clip| out += &format!(" {clip:>16.4}"));
            out += &format!("  {:>8}\n", ratio(row.outlier_ratio));
        }
        out
    }

    fn headline(&self) -> String {
        format!(
            "model {}: {}, {}; clips for 8-bit integers, {} by default",
            self.model.get(..12).unwrap_or(self.model),
            number_of(self.samples, "sample"),
            number_of(self.tokens, "token"),
            self.method
        )
    }

    /// The page for a browser.
    pub fn page(&self, name: &str) -> String {
        document(&format!("{name}: activation ranges"), &self.headline(), |html| {
            html.raw(
                "<p class=\"note\">Number of values (upwards, logarithmic) by magnitude (to the right, up to the ",
            );
            html.raw("largest). The line is the default method's clip: larger values saturate. ");
            html.raw("Outliers: the largest channel over the median one. The layer with the largest is open.</p>\n");
            let layers = || self.tensors.chunk_by(|a, b| layer(a.name) == layer(b.name));
            let worst = |rows: &[Row<'_>]| rows.iter().filter_map(|row| row.outlier_ratio).fold(0.0, f32::max);
            let worst_of_all = worst(&self.tensors);
            let opened = layers().position(|rows| worst(rows) == worst_of_all);
            for (index, rows) in layers().enumerate() {
                let title = layer(rows[0].name).map_or("after the layers".to_owned(), |layer| format!("layer {layer}"));
                let open: &[(&str, &str)] = &[("class", "program"), ("open", "")];
                html.tag("details", if opened == Some(index) { open } else { &open[..1] }, |html| {
                    html.tag("summary", &[], |html| {
                        html.leaf("h2", "", &title).raw(" ");
                        html.leaf("span", "", &format!("outliers up to {}", ratio(Some(worst(rows)))));
                    });
                    html.tag("div", &[("class", "columns")], |html| rows.iter().for_each(|row| self.tensor(html, row)));
                });
                html.raw("\n");
            }
        })
    }

    fn tensor(&self, html: &mut Html, row: &Row<'_>) {
        html.tag("div", &[], |html| {
            html.tag("h4", &[], |html| {
                html.leaf("span", "", row.name).leaf("span", "figure", &format!("{} channels", row.channels));
            });
            histogram(html, row);
            let clips = ClipMethod::ALL.iter().zip(row.clips).map(|(method, clip)| format!("{method} {clip:.4}"));
            let clips: Vec<String> = clips.collect();
            let outliers = ratio(row.outlier_ratio);
            html.leaf("p", "note", &format!("{} · outliers {outliers}", clips.join(" · ")));
        });
    }
}

/// The histogram up to the largest magnitude, with the clip.
fn histogram(html: &mut Html, row: &Row<'_>) {
    let histogram = &row.stats.histogram;
    let used = histogram.used().max(1);
    let bar = |index: usize| histogram.bins()[index * used / BARS..(index + 1) * used / BARS].iter().sum::<u64>();
    let bars: Vec<u64> = (0..BARS).map(bar).collect();
    let height = |value: u64| if value == 0 { 0.0 } else { 1.0 + (value as f64).log10() };
    let most = bars.iter().map(|value| height(*value)).fold(1.0, f64::max);
    let step = WIDTH / BARS as f64;
    // one outline instead of many rectangles: a page of hundreds of tensors stays small
    let mut path = format!("M0 {HEIGHT}");
    for (index, value) in bars.iter().enumerate() {
        let y = HEIGHT - height(*value) / most * (HEIGHT - 2.0);
        path += &format!("V{y:.0}H{:.0}", (index + 1) as f64 * step);
    }
    path += &format!("V{HEIGHT}Z");
    let range = used as f64 * histogram.width();
    let at = format!("{:.1}", (f64::from(row.clip) / range * WIDTH).min(WIDTH));
    let (size, bottom) = (format!("0 0 {WIDTH} {HEIGHT}"), format!("{HEIGHT}"));
    let label = format!("Magnitudes of {} up to {:.4}, clipped at {:.4}", row.name, row.absmax, row.clip);
    let most = bars.iter().copied().max().unwrap_or(0);
    html.leaf("p", "axis note", &format!("at most {} in a bar", number_of(most, "value")));
    html.tag("svg", &[("viewBox", &size), ("role", "img"), ("aria-label", &label)], |html| {
        html.leaf("title", "", &format!("{label}; {} values", count(histogram.total() as f64)));
        html.tag("path", &[("class", "c0"), ("d", &path)], |_| {});
        html.tag("line", &[("class", "clip"), ("x1", &at), ("x2", &at), ("y1", "0"), ("y2", &bottom)], |_| {});
    });
    html.tag("p", &[("class", "axis note")], |html| {
        for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
            html.leaf("span", "", &format!("{:.3}", part * range));
        }
    });
}

/// The number after `layers.`.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("layers.")?.split('.').next()?.parse().ok()
}

fn ratio(ratio: Option<f32>) -> String {
    ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.1}x"))
}
