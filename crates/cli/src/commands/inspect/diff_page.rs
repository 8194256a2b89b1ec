//! `smelt inspect A.plan --diff B.plan --html`: the differences of two plans as a page.

use super::diff::{Change, Diff, Lines};
use super::html::{Html, document};

/// The page, for two plans of these names.
pub fn page(diff: &Diff, a: &str, b: &str) -> String {
    let same = diff.text().starts_with("the plans do not differ");
    let subtitle = if same { "they do not differ, except perhaps in the values of weights" } else { "what differs" };
    document(&format!("{a} and {b}"), subtitle, |html| {
        for (title, changes) in diff.changes().iter().filter(|(_, changes)| !changes.is_empty()) {
            html.tag("section", &[], |html| {
                html.leaf("h2", "", title);
                table(html, changes, a, b);
            });
        }
        for (title, both) in [("weights", &diff.weights), ("kernels", &diff.kernels)] {
            if *both != Lines::default() {
                html.leaf("h2", "", title);
                lines(html, both);
            }
        }
        if !diff.kernels_with_other_source.is_empty() {
            html.leaf("h2", "", "kernels with different source");
            html.leaf("pre", "", &diff.kernels_with_other_source.join("\n"));
        }
        for (index, program) in diff.programs.iter().enumerate() {
            let attributes: &[(&str, &str)] =
                if index == 0 { &[("class", "program"), ("open", "")] } else { &[("class", "program")] };
            html.tag("details", attributes, |html| {
                html.tag("summary", &[], |html| {
                    html.leaf("strong", "", program.headline().trim());
                });
                for launch in &program.launches {
                    html.leaf("h4", "", &launch.place());
                    lines(html, &launch.lines);
                }
            });
            html.raw("\n");
        }
    })
}

fn table(html: &mut Html, changes: &[Change], a: &str, b: &str) {
    html.raw("<table class=\"ops\">\n<thead><tr><th></th>")
        .leaf("th", "", a)
        .leaf("th", "", b)
        .raw("</tr></thead>\n<tbody>\n");
    for change in changes {
        html.raw("<tr>").leaf("th", "", &change.name);
        for value in [&change.a, &change.b] {
            html.leaf("td", "", value.as_deref().unwrap_or("nothing"));
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody>\n</table>\n");
}

/// What A alone has, then what B has instead.
fn lines(html: &mut Html, lines: &Lines) {
    html.tag("pre", &[], |html| {
        for (class, mark, lines) in [("removed", "- ", &lines.removed), ("added", "+ ", &lines.added)] {
            for line in lines {
                html.leaf("span", class, &format!("{mark}{line}\n"));
            }
        }
    });
}
