//! HTML that cannot be written unescaped: markup is literal in the program, everything else is text.

/// A page, or a part of one.
#[derive(Default)]
pub struct Html(String);

impl Html {
    /// Markup. Only literals of the program can be markup: everything from a plan is text.
    pub fn raw(&mut self, markup: &'static str) -> &mut Html {
        self.0.push_str(markup);
        self
    }

    /// Text, escaped for contents and for attributes.
    pub fn text(&mut self, text: &str) -> &mut Html {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(c),
                // shown, not obeyed: terminals and editors interpret them, and direction marks hide text
                c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        self
    }

    /// An element.
    pub fn tag(
        &mut self,
        name: &'static str,
        attributes: &[(&'static str, &str)],
        body: impl FnOnce(&mut Html),
    ) -> &mut Html {
        self.raw("<").raw(name);
        for (key, value) in attributes {
            self.raw(" ").raw(key).raw("=\"").text(value).raw("\"");
        }
        self.raw(">");
        body(self);
        self.raw("</").raw(name).raw(">")
    }

    /// An element that contains only text, with a class unless that is empty.
    pub fn leaf(&mut self, name: &'static str, class: &'static str, text: &str) -> &mut Html {
        let attributes = [("class", class)];
        self.with(name, if class.is_empty() { &[] } else { &attributes }, text)
    }

    /// An element with attributes that contains only text.
    pub fn with(&mut self, name: &'static str, attributes: &[(&'static str, &str)], text: &str) -> &mut Html {
        self.tag(name, attributes, |html| {
            html.text(text);
        })
    }

    /// A list of names with what belongs to each.
    pub fn definitions(&mut self, rows: &[(&str, String)]) -> &mut Html {
        self.tag("dl", &[], |html| {
            for (name, value) in rows {
                html.leaf("dt", "", name).leaf("dd", "", value).raw("\n");
            }
        })
    }

    /// The text of the page.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Colours of the style sheet; the last is for all others.
pub const COLOURS: usize = 8;

/// The class of a colour.
pub fn colour_class(index: usize) -> String {
    format!("c{}", index.min(COLOURS - 1))
}

const STYLE: &str = include_str!("page.css");
/// Nothing is loaded and nothing runs, whatever a plan contains.
const POLICY: &str =
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n";

/// A self-contained page.
pub fn document(title: &str, subtitle: &str, body: impl FnOnce(&mut Html)) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n").raw(POLICY);
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    html.leaf("title", "", title).raw("\n<style>\n").raw(STYLE).raw("</style>\n</head>\n<body>\n<header>");
    html.leaf("h1", "", title).leaf("p", "sub", subtitle).raw("</header>\n<main>\n");
    body(&mut html);
    html.raw("</main>\n</body>\n</html>\n");
    html.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let mut html = Html::default();
        html.with("a", &[("title", "\" onclick='x'")], "</a><script>&\u{1b}[2J\u{202e}\n");
        let expected = "<a title=\"&quot; onclick=&#39;x&#39;\">\
                        &lt;/a&gt;&lt;script&gt;&amp;\u{fffd}[2J\u{fffd}\n</a>";
        assert_eq!(html.finish(), expected);
    }
}
