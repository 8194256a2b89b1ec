//! Tests of `text` through its public surface, over small tokenizers of each kind.

mod fixtures;
mod stream;
mod tokenizer;
