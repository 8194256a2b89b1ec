//! The roofline of a profile: achieved operations per second over operations per byte, both logarithmic, a dot for each op
//! of each step under the ceilings of the device. One file that needs nothing else, in light and in dark.

use smelt::{Ceilings, RateSource};

use crate::commands::inspect::figures::{quantity, time};
use crate::commands::inspect::html::Html;
use crate::commands::profile_file::ProfileFile;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 600.0;
/// The plot: left, top, right, bottom.
const PLOT: [f64; 4] = [96.0, 56.0, 936.0, 536.0];
/// Operations per byte from which on an op has a dot.
const LEAST_INTENSITY: f64 = 0.01;
/// The size of letters, and about how wide one is.
const LINE: f64 = 15.0;
const LETTER: f64 = 7.0;

const STYLE: &str = "<style>
svg { color-scheme: light dark; background: var(--back); --back: #fdfdfc; --ink: #1c1d1f; --soft: #62656b; --line: #dcdcd6; --c0: #2f6fde;
  --c1: #d9722b; font: 12px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  svg { --back: #17181a; --ink: #e6e6e3; --soft: #9ea2a9; --line: #36393e; --c0: #6ea2ff; --c1: #f2955a; }
}
text { fill: var(--ink); stroke: var(--back); stroke-width: 3px; paint-order: stroke; } .soft { fill: var(--soft); } .title { font-size: 16px; font-weight: 600; }
.grid { stroke: var(--line); } .ceiling { stroke: var(--ink); stroke-width: 1.5; }
.s0 { fill: var(--c0); } .s1 { fill: var(--c1); }
</style>
";

/// All launches of an op in a step.
struct Dot {
    /// Index of the step.
    step: usize,
    op: String,
    us: f64,
    flops: f64,
    bytes: f64,
}

impl Dot {
    fn intensity(&self) -> f64 {
        self.flops / self.bytes
    }

    fn rate(&self) -> f64 {
        self.flops / (self.us / 1e6)
    }
}

fn dots(file: &ProfileFile) -> Vec<Dot> {
    let mut dots: Vec<Dot> = Vec::new();
    for (step, program) in file.steps.iter().enumerate() {
        for launch in &program.launches {
            let place = dots.iter().position(|dot| dot.step == step && dot.op == launch.op).unwrap_or_else(|| {
                dots.push(Dot { step, op: launch.op.clone(), us: 0.0, flops: 0.0, bytes: 0.0 });
                dots.len() - 1
            });
            let dot = &mut dots[place];
            dot.us += launch.us;
            dot.flops += launch.flops as f64;
            dot.bytes += launch.bytes as f64;
        }
    }
    // what does next to nothing but move would leave the others no room on logarithmic axes
    dots.retain(|dot| dot.bytes > 0.0 && dot.us > 0.0 && dot.intensity() >= LEAST_INTENSITY);
    // the longest take the best places for their names
    dots.sort_by(|a, b| b.us.total_cmp(&a.us));
    dots
}

/// Logarithmic axes in whole decades.
struct Axes {
    x: [i32; 2],
    y: [i32; 2],
}

impl Axes {
    fn of(dots: &[Dot], ceilings: &Ceilings) -> Axes {
        let read = ceilings.read_bytes_per_s;
        let rates: Vec<f64> = ceilings.products.iter().map(|product| product.flops_per_s).collect();
        let highest = rates.iter().copied().fold(read, f64::max);
        // the place where reading and multiplying take as long
        let ridge = highest / read;
        let decades = |values: &mut dyn Iterator<Item = f64>| {
            let values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).map(f64::log10).collect();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min).floor();
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
            // of which there is at least the one of a ceiling
            [least as i32, (most as i32).max(least as i32 + 1)]
        };
        let x = decades(&mut dots.iter().map(Dot::intensity).chain([0.1, ridge * 4.0]));
        let y = decades(&mut dots.iter().map(Dot::rate).chain(rates).chain([read]));
        Axes { x, y }
    }

    fn across(&self, intensity: f64) -> f64 {
        place(intensity, self.x, [PLOT[0], PLOT[2]])
    }

    fn up(&self, rate: f64) -> f64 {
        place(rate, self.y, [PLOT[3], PLOT[1]])
    }
}

fn place(value: f64, [low, high]: [i32; 2], [from, to]: [f64; 2]) -> f64 {
    from + (value.log10() - f64::from(low)) / f64::from(high - low) * (to - from)
}

/// The picture.
pub fn svg(file: &ProfileFile, ceilings: &Ceilings) -> String {
    let dots = dots(file);
    let axes = Axes::of(&dots, ceilings);
    let mut svg = Html::default();
    svg.raw("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 600\" width=\"960\" height=\"600\" role=\"img\">\n");
    let programs: Vec<&str> = file.steps.iter().map(|step| step.program.as_str()).collect();
    let title = format!("Roofline of {} on {}", programs.join(" and "), file.device);
    svg.leaf("title", "", &title).raw("\n").raw(STYLE);
    text(&mut svg, "title", PLOT[0], 24.0, "start", &title);
    grid(&mut svg, &axes);
    let mut taken = lines(&mut svg, &axes, ceilings);
    for dot in &dots {
        let (x, y) = (axes.across(dot.intensity()), axes.up(dot.rate()));
        let class = if dot.step == 0 { "s0" } else { "s1" };
        let about = format!(
            "{}, {}: {}, {} at {}",
            file.steps[dot.step].program,
            dot.op,
            time(dot.us / 1e6),
            quantity(dot.rate(), "FLOP/s"),
            quantity(dot.intensity(), "FLOP per byte")
        );
        let [cx, cy] = [x, y].map(|at| format!("{at:.1}"));
        svg.tag("circle", &[("class", class), ("cx", &cx), ("cy", &cy), ("r", "5")], |circle| {
            circle.leaf("title", "", &about);
        });
        svg.raw("\n");
        label(&mut svg, &mut taken, (x, y), &dot.op);
    }
    legend(&mut svg, &programs);
    svg.raw("</svg>\n");
    svg.finish()
}

fn text(svg: &mut Html, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
    let [x, y] = [x, y].map(|at| format!("{at:.1}"));
    svg.with("text", &[("class", class), ("x", &x), ("y", &y), ("text-anchor", anchor)], text).raw("\n");
}

fn line(svg: &mut Html, class: &str, from: (f64, f64), to: (f64, f64)) {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(|at| format!("{at:.1}"));
    svg.tag("line", &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)], |_| {}).raw("\n");
}

fn grid(svg: &mut Html, axes: &Axes) {
    for decade in axes.x[0]..=axes.x[1] {
        let (value, at) = (10f64.powi(decade), axes.across(10f64.powi(decade)));
        line(svg, "grid", (at, PLOT[1]), (at, PLOT[3]));
        text(svg, "soft", at, PLOT[3] + LINE + 2.0, "middle", &plain(value));
    }
    for decade in axes.y[0]..=axes.y[1] {
        let (value, at) = (10f64.powi(decade), axes.up(10f64.powi(decade)));
        line(svg, "grid", (PLOT[0], at), (PLOT[2], at));
        text(svg, "soft", PLOT[0] - 6.0, at + 4.0, "end", &quantity(value, "FLOP/s"));
    }
    text(svg, "soft", (PLOT[0] + PLOT[2]) / 2.0, PLOT[3] + 2.5 * LINE, "middle", "FLOP per byte");
}

fn plain(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

/// A box that a text takes: left, top, right, bottom.
type Box = [f64; 4];

/// The ceilings, with what they are; returns the places of their names.
fn lines(svg: &mut Html, axes: &Axes, ceilings: &Ceilings) -> Vec<Box> {
    let mut taken = Vec::new();
    let read = ceilings.read_bytes_per_s;
    let highest = ceilings.products.iter().map(|product| product.flops_per_s).fold(0.0, f64::max);
    // where the line of reading begins and ends inside of the plot
    let (low, high) = (10f64.powi(axes.x[0]).max(10f64.powi(axes.y[0]) / read), highest / read);
    line(svg, "ceiling", (axes.across(low), axes.up(low * read)), (axes.across(high), axes.up(high * read)));
    let source = |source: RateSource| if source == RateSource::Table { ", of a table" } else { "" };
    let name = format!("reads {}{}", quantity(read, "B/s"), source(ceilings.read_source));
    let middle = (low * high).sqrt();
    let (x, y) = (axes.across(middle) - 8.0, axes.up(middle * read) - 8.0);
    text(svg, "", x, y, "end", &name);
    taken.push([x - LETTER * name.chars().count() as f64, y - LINE, x, y]);
    let mut products: Vec<_> = ceilings.products.iter().collect();
    products.sort_by(|a, b| b.flops_per_s.total_cmp(&a.flops_per_s));
    let mut above = f64::NEG_INFINITY;
    for product in products {
        let at = axes.up(product.flops_per_s);
        line(svg, "ceiling", (axes.across(product.flops_per_s / read), at), (PLOT[2], at));
        let name = format!("{} {}{}", product.dtype, quantity(product.flops_per_s, "FLOP/s"), source(product.source));
        // between two ceilings that are near each other is no room
        let y = if at - above < 2.0 * LINE { at + LINE } else { at - 6.0 };
        above = at;
        text(svg, "", PLOT[2], y, "end", &name);
        taken.push([PLOT[2] - LETTER * name.chars().count() as f64, y - LINE, PLOT[2], y]);
    }
    taken
}

/// Names a dot where there is room beside it.
fn label(svg: &mut Html, taken: &mut Vec<Box>, (x, y): (f64, f64), name: &str) {
    let wide = LETTER * name.chars().count() as f64;
    let free = |place: &Box| {
        let inside =
            place[0] > PLOT[0] && place[2] < WIDTH && place[1] > PLOT[1] - LINE && place[3] < HEIGHT - 2.0 * LINE;
        inside
            && taken
                .iter()
                .all(|other| place[2] < other[0] || place[0] > other[2] || place[3] < other[1] || place[1] > other[3])
    };
    let rows = [0.0, -1.0, 1.0, -2.0, 2.0, -3.0, 3.0];
    let places = rows.iter().flat_map(|row| {
        let bottom = y + 4.0 + row * LINE;
        [x + 9.0, x - 9.0 - wide].map(|left| [left, bottom - LINE + 3.0, left + wide, bottom])
    });
    let places: Vec<Box> = places.collect();
    // a name that is nowhere free is still in the dot's title
    if let Some(place) = places.iter().copied().find(free) {
        text(svg, "", place[0], place[3], "start", name);
        taken.push(place);
    }
}

fn legend(svg: &mut Html, programs: &[&str]) {
    for (index, program) in programs.iter().enumerate() {
        let y = PLOT[1] + LINE * (index as f64 + 1.0);
        let class = if index == 0 { "s0" } else { "s1" };
        let [cx, cy] = [PLOT[0] + 14.0, y - 4.0].map(|at| format!("{at:.1}"));
        svg.tag("circle", &[("class", class), ("cx", &cx), ("cy", &cy), ("r", "5")], |_| {});
        text(svg, "", PLOT[0] + 26.0, y, "start", program);
    }
}
