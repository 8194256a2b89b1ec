//! Tests of `text` through its public API, over small tokenizers of each kind.

mod fixtures;
mod stream;
mod tokenizer;
