//! The arena of a program as a chart: steps from left to right, bytes from top to bottom. Of equal layers only the
//! first is drawn, so that a chart of a hundred layers reads like one of two.

use smelt::plans::Arg;

use super::super::memory::Memory;
use super::html::{COLOURS, Html, colour_class};
use super::view::View;
use crate::output::bytes;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 240.0;

/// Draws the arena of a program.
pub fn chart(html: &mut Html, view: &View<'_>) {
    let sections = view.sections();
    let steps: Vec<usize> = sections.iter().flat_map(|section| section.nodes.clone()).collect();
    let column = WIDTH / steps.len().max(1) as f64;
    let scale = HEIGHT / view.program.arena_bytes.max(1) as f64;
    html.leaf("h3", "", "Arena: lifetimes of buffers");
    html.leaf("p", "note", &Memory::of_program(view.program).headline());
    let label = format!("Offsets and lifetimes of the arena's buffers, for {}", view.program.name);
    let size = format!("0 0 {WIDTH} {}", HEIGHT + 20.0);
    html.tag("svg", &[("viewBox", &size), ("role", "img"), ("aria-label", &label)], |html| {
        for (index, buffer) in (0..).zip(&view.program.buffers) {
            let alive = |step: &usize| (buffer.live.0 as usize..=buffer.live.1 as usize).contains(step);
            let writer = view.nodes.get(buffer.live.0 as usize);
            let writer = writer.filter(|node| node.launch.outputs.contains(&Arg::Buffer(index)));
            let class = colour_class(writer.map_or(COLOURS - 1, |node| view.rank(node.op)));
            // equal layers in between are not drawn: a buffer may be drawn in several pieces
            let mut drawn = 0;
            for piece in steps.chunk_by(|a, b| alive(a) == alive(b)) {
                let first = drawn;
                drawn += piece.len();
                if !alive(&piece[0]) {
                    continue;
                }
                let [x, width] = [first as f64 * column, piece.len() as f64 * column];
                let [y, height] = [buffer.offset as f64 * scale, (buffer.bytes as f64 * scale).max(1.0)];
                let shape = [x, y, width, height].map(|number| format!("{number:.1}"));
                let [x, y, width, height] = &shape;
                let attributes = [("x", x.as_str()), ("y", y), ("width", width), ("height", height), ("class", &class)];
                html.tag("rect", &attributes, |html| {
                    let lives = format!("steps {} to {}", buffer.live.0, buffer.live.1);
                    html.leaf("title", "", &format!("{}: {}, {lives}", buffer.name, bytes(buffer.bytes)));
                });
            }
        }
        let mut at = 0;
        for section in &sections {
            let x = format!("{:.1}", at as f64 * column);
            let (bottom, text) = (format!("{HEIGHT}"), format!("{}", HEIGHT + 15.0));
            html.tag("line", &[("x1", &x), ("x2", &x), ("y1", "0"), ("y2", &bottom)], |_| {});
            let title = if section.layers.is_empty() { String::new() } else { section.title() };
            html.with("text", &[("x", &x), ("y", &text)], &title);
            at += section.nodes.len();
        }
    });
    html.raw("\n");
}
