//! The text form of a graph: `parse(print(graph))` is the graph, `print(parse(text))` is the text.

mod lexer;
mod parse;
mod print;

pub use parse::{ParseError, Parsed, parse};
pub use print::{print, print_op};
