//! The text form of a graph: `parse(print(graph))` is the graph, `print(parse(text))` is the text.

mod lexer;
mod near;
mod parse;
mod print;

pub use lexer::Token;
pub use near::{nearest, suggestion};
pub use parse::{ParseError, Parsed, Parser, parse};
pub use print::{print, print_op};
