//! Tokenization and detokenization. Knows nothing of models: its input is the bytes of a `tokenizer.json`.
//!
//! ```no_run
//! let tokenizer = std::sync::Arc::new(text::Tokenizer::from_bytes(&std::fs::read("tokenizer.json")?)?);
//! let mut stream = tokenizer.stream();
//! for id in tokenizer.encode("The compiler", true)? {
//!     print!("{}", stream.push(id)?);
//! }
//! println!("{}", stream.finish());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod growth;
mod stream;
mod tokenizer;

pub use error::TextError;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
