//! Errors of the command line, and which exit code they have.

use miette::{Diagnostic, MietteHandlerOpts};
use smelt::plans::clipped;
use smelt::plans::terminal::shown;
use smelt::{Error, ErrorKind};

use crate::flags::with_flags;

/// The exit codes, for `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 ok, 1 internal error, 2 usage, 3 bad input, 4 unsupported, \
     5 no device or CUDA library, 6 does not fit, 7 fails its gate, 8 slower than allowed.\nEvery option may also be spelled with underscores.";

/// An error on its way out.
#[derive(Debug)]
pub struct Failure {
    message: String,
    help: Option<String>,
    code: u8,
}

impl Failure {
    /// An option was wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Error::Usage(message.into()).into()
    }

    /// An input was wrong.
    pub fn bad_input(message: impl Into<String>) -> Failure {
        Error::BadInput(message.into()).into()
    }

    /// A benchmark was slower than allowed.
    pub fn slower(message: String) -> Failure {
        Failure { message, help: None, code: 8 }
    }

    /// The same failure with a hint.
    pub fn help(mut self, help: impl Into<String>) -> Failure {
        self.help = Some(help.into());
        self
    }

    /// The same with names of a limited length, for printing, and without what a terminal would obey.
    pub fn shown(self) -> Failure {
        // before styling: afterwards all escape sequences in it are our own
        let short = |text: &str| clipped(shown(text), MAX_BYTES);
        Failure { message: short(&self.message), help: self.help.map(|help| short(&help)), code: self.code }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Whether the other end of stdout is closed, which is not an error.
    pub fn is_closed_pipe(&self) -> bool {
        self.code == CLOSED_PIPE
    }
}

/// Maximum size of an error in bytes, whatever an input or an option contains.
pub const MAX_BYTES: usize = 3584;

/// The exit code of a bad input.
pub const BAD_INPUT: u8 = 3;

/// What a shell reports for a program that a closed pipe ended: 128 + SIGPIPE.
const CLOSED_PIPE: u8 = 141;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match error.kind() {
            ErrorKind::Internal => 1,
            ErrorKind::Usage => 2,
            ErrorKind::BadInput => BAD_INPUT,
            ErrorKind::Unsupported => 4,
            ErrorKind::NoDevice => 5,
            ErrorKind::DoesNotFit => 6,
            ErrorKind::Inaccurate => 7,
        };
        let help =
            (code == 1).then(|| "this should not happen: please report it with the command that shows it".to_owned());
        Failure { message: with_flags(&error.to_string()), help, code }
    }
}

/// Errors of writing to stdout.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        let closed = error.kind() == std::io::ErrorKind::BrokenPipe;
        let failure = Failure::from(Error::Io { path: "stdout".into(), error });
        if closed { Failure { code: CLOSED_PIPE, ..failure } } else { failure }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|help| -> Box<dyn std::fmt::Display + 'a> { Box::new(help) })
    }
}

/// Errors are printed without wrapping: tensor names and paths stay whole.
pub fn install() {
    // It fails only if a hook is already installed, which then stays.
    let _ =
        miette::set_hook(Box::new(|_| Box::new(MietteHandlerOpts::new().wrap_lines(false).break_words(false).build())));
}
