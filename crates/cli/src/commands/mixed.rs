//! `--precision mixed` of `smelt compile` and `smelt quantize`: options of the search, and the page that shows it.

use std::path::PathBuf;

use clap::Args;
use smelt::plans::Machine;
use smelt::{
    CompileOptions, Driver, Error, Format, Goal, LossCache, Mixed, MixedOptions, Point, PrecisionMap, RunOptions,
    Source,
};

use super::inspect::html::{Html, document};
use crate::args::{CacheArgs, PrecisionChoice, machine_names, parse_count, parse_positive};
use crate::environment::build_identity;
use crate::failure::Failure;
use crate::flags::with_flags;
use crate::inputs::read_text;
use crate::output::{print_error, write_file};
use crate::progress::Stderr;

/// How a format is chosen for each linear layer.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "With --precision mixed")]
pub struct MixedArgs {
    /// Upper bound on the average bits per weight, scales included, lm_head excluded.
    #[arg(id = "Goal::Bits", long = "target-bits", value_name = "BITS", value_parser = parse_positive,
          conflicts_with_all = ["Goal::PerplexityIncrease", "Goal::Speedup"])]
    target_bits: Option<f64>,
    /// Upper bound on the increase of perplexity over the checkpoint's own precision, such as 1%.
    #[arg(id = "Goal::PerplexityIncrease", long = "max-perplexity-increase", value_name = "PERCENT",
          value_parser = parse_percent, conflicts_with = "Goal::Speedup")]
    max_perplexity_increase: Option<f64>,
    /// Minimum decode speed-up over the unquantized model.
    #[arg(id = "Goal::Speedup", long = "min-speedup", value_name = "FACTOR", value_parser = parse_positive)]
    min_speedup: Option<f64>,
    /// Batch size to optimize decoding for.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_count::<u32>)]
    batch: u32,
    /// Machine whose roofline predicts the time of matrix products: h200, h100 or cpu [default: by target; with
    /// --timing-cache they are measured].
    #[arg(long, value_name = "NAME", hide_possible_values = true, value_parser = machine_names())]
    machine: Option<Machine>,
    /// Text that formats are measured on.
    #[arg(long, value_name = "FILE")]
    precision_text: Option<PathBuf>,
    /// Tokens to measure each format of each group of linear layers on; the final choice is measured on the whole text.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = parse_count::<usize>)]
    precision_tokens: usize,
    /// Formats to choose from, comma-separated [default: all that need no calibration].
    #[arg(long, value_name = "FORMATS", value_delimiter = ',')]
    formats: Vec<Format>,
    /// File to write the format of each layer to; --precision-map reads it back.
    #[arg(long, value_name = "FILE")]
    precision_table: Option<PathBuf>,
    /// HTML page to write, which shows the alternatives and the choice.
    #[arg(long, value_name = "FILE.html")]
    precision_html: Option<PathBuf>,
}

/// Compilation options whose formats may still be to be chosen.
pub struct Requested {
    /// As it was requested.
    pub precision: Option<PrecisionChoice>,
    /// Without formats, if `precision` is mixed.
    pub options: CompileOptions,
}

/// `1%`, `0.5 %`.
fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').map(|number| number.trim_start_matches('+').trim());
    let percent =
        number.and_then(|number| number.parse::<f64>().ok()).filter(|percent| (0.0..f64::MAX).contains(percent));
    percent.map(|percent| percent / 100.0).ok_or_else(|| format!("expected a percentage such as 1%, found `{text}`"))
}

impl MixedArgs {
    /// The text that is read.
    pub fn text(&self) -> Option<&PathBuf> {
        self.precision_text.as_ref()
    }

    /// The files that are written.
    pub fn outputs(&self) -> impl Iterator<Item = &PathBuf> {
        self.precision_table.iter().chain(&self.precision_html)
    }

    /// Whether any option is set that only mixed precision takes.
    fn is_given(&self) -> bool {
        let files = [&self.precision_text, &self.precision_table, &self.precision_html];
        files.into_iter().any(Option::is_some) || !self.formats.is_empty() || self.machine.is_some()
    }

    /// The options with the chosen formats, and the choice, if `precision` is mixed.
    pub fn options(
        &self,
        driver: &Driver,
        source: &Source,
        Requested { precision, options }: Requested,
        cache: &CacheArgs,
        quiet: bool,
    ) -> Result<(CompileOptions, Option<Mixed>), Failure> {
        let goals = [
            self.target_bits.map(Goal::Bits),
            self.max_perplexity_increase.map(Goal::PerplexityIncrease),
            self.min_speedup.map(Goal::Speedup),
        ];
        let goal = goals.into_iter().flatten().next();
        let usage = |message: &str| Err(Error::Usage(message.to_owned()).into());
        let (goal, text) = match (precision, goal, &self.precision_text) {
            (Some(PrecisionChoice::Mixed), Some(goal), Some(text)) => (goal, read_text("--precision-text", text)?),
            (Some(PrecisionChoice::Mixed), Some(_), None) => {
                return usage("--precision mixed requires --precision-text FILE");
            }
            (Some(PrecisionChoice::Mixed), None, _) => {
                return usage(
                    "--precision mixed requires one of --target-bits, --max-perplexity-increase and --min-speedup",
                );
            }
            (_, Some(_), _) => {
                return usage("--target-bits, --max-perplexity-increase and --min-speedup require --precision mixed");
            }
            _ if self.is_given() => {
                return usage("options of mixed precision require --precision mixed");
            }
            (_, None, _) => return Ok((options, None)),
        };
        if options.precision.map.is_some() {
            return usage(
                "--precision mixed and --precision-map exclude each other: pass the edited --precision-table as --precision-map",
            );
        }
        // without a calibration, those that need none
        let possible = |format: &Format| {
            options.precision.calibration.is_some() || !format.needs_calibration(options.precision.activations)
        };
        let asked = |format: &Format| match self.formats.is_empty() {
            true => possible(format),
            false => self.formats.contains(format),
        };
        let formats = Format::ALL.into_iter().filter(asked).collect();
        let (batch, tokens, machine) = (self.batch, self.precision_tokens, self.machine);
        let losses = cache.folder().map(|folder| LossCache::new(folder.join("losses"), build_identity()));
        let search = MixedOptions { goal, batch, text, tokens, formats, machine, run: RunOptions::default(), losses };
        let mut progress = Stderr::new(quiet);
        let mixed = driver.choose_precision(source, &options, &search, &mut progress);
        progress.finish();
        let mixed = mixed?;
        let table = with_flags(&mixed.table());
        if !quiet {
            print_error(&mixed.summary());
        }
        if let Some(path) = &self.precision_table {
            write_file(path, table.as_bytes())?;
        }
        if let Some(path) = &self.precision_html {
            let model = source.dir().canonicalize().unwrap_or_else(|_| source.dir().to_owned());
            let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
            write_file(path, page(&name, &mixed).as_bytes())?;
        }
        if mixed.chosen.formats.iter().all(|format| *format == 0) {
            print_error("note: no linear layer is quantized: no format keeps the bound, or is faster");
        }
        let mut options = options;
        let path = self.precision_table.clone().unwrap_or_else(|| PathBuf::from("precision"));
        options.precision.map = Some(PrecisionMap { path, text: table });
        Ok((options, Some(mixed)))
    }
}

/// Size of the plot, and of its margins.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 56.0;

/// The page: speed against loss of the Pareto front, uniform formats and the choice, and a row per group.
fn page(model: &str, mixed: &Mixed) -> String {
    document(&format!("{model}: precision of each linear layer"), &mixed.summary(), |html| {
        html.tag("section", &[], |html| plot(html, mixed));
        html.tag("section", &[], |html| groups(html, mixed));
    })
}

fn plot(html: &mut Html, mixed: &Mixed) {
    html.leaf("h2", "", "Speed against loss");
    html.leaf(
        "p",
        "note",
        "To the right is faster, down is closer to the reference. The line is the Pareto front; its points add up the \
         losses and times of the groups.",
    );
    let points = || mixed.frontier.iter().chain(mixed.uniform.iter().map(|(_, point)| point));
    let fastest = points().map(|point| point.speedup).fold(1.0, f64::max).max(1.01);
    let largest = points().map(|point| point.kl).fold(f64::MIN_POSITIVE, f64::max);
    let at = |point: &Point| {
        let x = MARGIN + (point.speedup - 1.0) / (fastest - 1.0) * (WIDTH - 2.0 * MARGIN);
        let y = HEIGHT - MARGIN - (point.kl / largest).sqrt() * (HEIGHT - 2.0 * MARGIN);
        [format!("{x:.1}"), format!("{y:.1}")]
    };
    let size = format!("0 0 {WIDTH} {HEIGHT}");
    html.tag("svg", &[("viewBox", &size), ("role", "img"), ("class", "curve")], |html| {
        let (low, right) = (format!("{}", HEIGHT - MARGIN), format!("{}", WIDTH - MARGIN));
        let margin = format!("{MARGIN}");
        let axis = |html: &mut Html, from: [&str; 2], to: [&str; 2]| {
            let [x1, y1] = from;
            let [x2, y2] = to;
            html.tag("line", &[("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2), ("stroke", "currentColor")], |_| {});
        };
        axis(html, [&margin, &low], [&right, &low]);
        axis(html, [&margin, &margin], [&margin, &low]);
        let label = |html: &mut Html, x: f64, y: f64, anchor: &str, text: &str| {
            let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
            let attributes =
                [("x", x.as_str()), ("y", &y), ("text-anchor", anchor), ("fill", "currentColor"), ("font-size", "12")];
            html.with("text", &attributes, text);
        };
        label(html, MARGIN, HEIGHT - MARGIN + 18.0, "middle", "1×");
        label(html, WIDTH - MARGIN, HEIGHT - MARGIN + 18.0, "middle", &format!("{fastest:.2}×"));
        label(html, WIDTH / 2.0, HEIGHT - MARGIN + 34.0, "middle", "decode speed-up");
        label(html, MARGIN - 6.0, MARGIN + 4.0, "end", &format!("{largest:.1e}"));
        label(html, MARGIN - 6.0, HEIGHT - MARGIN + 4.0, "end", "0");
        label(html, MARGIN, MARGIN - 14.0, "start", "KL divergence in nats, square-root scale");
        let line: Vec<String> = mixed.frontier.iter().map(|point| at(point).join(",")).collect();
        let line = line.join(" ");
        html.tag("polyline", &[("points", &line), ("fill", "none"), ("stroke", "currentColor")], |_| {});
        // labels of close points are stacked
        let mut placed: Vec<[f64; 2]> = Vec::new();
        for (format, point) in &mixed.uniform {
            let [x, y] = at(point);
            html.tag("circle", &[("cx", &x), ("cy", &y), ("r", "4"), ("class", "c1")], |_| {});
            let (x, mut y) = (x.parse().unwrap_or(0.0) - 8.0, y.parse().unwrap_or(0.0) - 8.0);
            while placed.iter().any(|other| (x - other[0]).abs() < 80.0 && (y - other[1]).abs() < 13.0) {
                y -= 13.0;
            }
            placed.push([x, y]);
            label(html, x, y, "end", format.name());
        }
        let [x, y] = at(&mixed.chosen);
        html.tag("circle", &[("cx", &x), ("cy", &y), ("r", "6"), ("class", "c0")], |html| {
            html.leaf("title", "", "the choice");
        });
        let (x, y) = (x.parse().unwrap_or(0.0) + 10.0, y.parse().unwrap_or(0.0) + 4.0);
        label(html, x, y, "start", "chosen");
    });
}

fn groups(html: &mut Html, mixed: &Mixed) {
    html.leaf("h2", "", "Linears");
    html.leaf("p", "note", "KL divergence of each format with only these linear layers quantized, in nats.");
    html.raw("<table class=\"ops\">\n<thead><tr>").leaf("th", "", "linear layers with the same input");
    html.leaf("th", "", "chosen");
    for (format, _) in &mixed.uniform {
        html.leaf("th", "", format.name());
    }
    html.raw("</tr></thead>\n<tbody>\n");
    for (group, chosen) in mixed.groups.iter().zip(&mixed.chosen.formats) {
        let names: Vec<&str> = group.linears.iter().map(|linear| linear.name.as_str()).collect();
        html.raw("<tr>").leaf("th", "code", &names.join(" "));
        html.leaf("td", "", group.formats[*chosen].format.map_or("none", Format::name));
        for measured in &group.formats[1..] {
            html.leaf("td", "", &format!("{:.1e}", measured.kl));
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody>\n</table>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_percents() {
        assert_eq!((parse_percent("1%"), parse_percent("+0.5 %")), (Ok(0.01), Ok(0.005)));
        assert!(parse_percent("0.01").is_err() && parse_percent("-1%").is_err());
    }
}
