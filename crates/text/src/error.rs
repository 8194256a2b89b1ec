//! Errors of loading a tokenizer, encoding and decoding.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::growth::TooLong;

/// Errors of tokenizers.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file is not a tokenizer, or not a consistent one.
    #[error("bad tokenizer: {0}; expected a tokenizer.json as Hugging Face `tokenizers` writes it")]
    Tokenizer(String),
    /// The tokenizer cannot encode this text.
    #[error("the tokenizer cannot encode this text: {0}")]
    Encode(String),
    /// The tokenizer's decoder refused these tokens.
    #[error("the tokenizer cannot decode these tokens: {0}")]
    Decode(String),
}

/// Runs a piece of the `tokenizers` crate, which panics on some errors: on a template that names an unknown special
/// token when it first encodes, or in a stripping decoder on an empty token. A bad file must not end the process, nor
/// print more than the error: panics of this thread are quiet meanwhile.
pub(crate) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                print(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    match done {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(match panic.downcast::<TooLong>() {
            Ok(too_long) => too_long.0,
            Err(_) => "its parts contradict each other".to_owned(),
        }),
    }
}

thread_local! {
    /// Whether panics of this thread are expected.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The process has one panic hook: ours wraps the existing one at first use.
static HOOK: Once = Once::new();
