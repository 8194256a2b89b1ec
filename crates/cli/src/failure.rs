//! Errors of the command line, and which exit code they have.

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

impl Failure {
    /// The error for programs.
    pub fn json(&self) -> serde_json::Value {
        let Failure { message, help, code } = self;
        let kind = match code {
            2 => "usage",
            3 => "bad_input",
            4 => "unsupported",
            5 => "no_device",
            6 => "does_not_fit",
            7 => "inaccurate",
            8 => "slower",
            _ => "internal",
        };
        let error = serde_json::json!({ "kind": kind, "exit_code": code, "message": message, "help": help });
        serde_json::json!({ "schema_version": 1, "error": error })
    }

    /// The error with its hint as it is printed, with colours. Lines longer than `width` columns are wrapped at words:
    /// names and paths stay whole.
    pub fn rendered(&self, width: Option<usize>) -> String {
        let (red, blue, end) = ("\x1b[31m", "\x1b[36m", "\x1b[0m");
        let mut text = String::new();
        let mut mark = format!("  {red}×{end} ");
        for line in self.message.lines().flat_map(|line| wrapped(line, width)) {
            text.push_str(&format!("{mark}{line}\n"));
            mark = format!("  {red}│{end} ");
        }
        let mut mark = format!("  {blue}help:{end} ");
        for line in self.help.iter().flat_map(|help| help.lines()).flat_map(|line| wrapped(line, width)) {
            text.push_str(&format!("{mark}{line}\n"));
            mark = " ".repeat(8);
        }
        text
    }
}

/// A line in pieces that end at a space, each of at most `width` columns with the mark before it, unless a word is longer.
fn wrapped(line: &str, width: Option<usize>) -> Vec<String> {
    let most = width.map_or(usize::MAX, |width| width.saturating_sub(8).max(20));
    if line.chars().count() <= most {
        return vec![line.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        let last = lines.last_mut().expect("there is one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > most {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_wrap_at_words_and_never_in_a_pipe() {
        let names = ["fuse-add-layer-norm"; 9].join(", ");
        let failure =
            Failure::usage(format!("unknown pass, expected one of: {names}\n%x = silu %y\n     ^")).help("a hint");
        let plain = |width| anstream::adapter::strip_str(&failure.rendered(width)).to_string();
        let piped = plain(None);
        assert!(piped.starts_with("  × unknown pass, expected one of: fuse") && piped.lines().count() == 4, "{piped}");
        assert!(piped.ends_with("  │ %x = silu %y\n  │      ^\n  help: a hint\n"), "{piped}");
        let narrow = plain(Some(60));
        assert!(narrow.lines().count() > 6 && narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert!(narrow.lines().all(|line| !line.ends_with('-')), "{narrow}");
        assert_eq!(narrow.matches("fuse-add-layer-norm").count(), 9);
        assert_eq!(wrapped("a-word-longer-than-any-terminal is", Some(10)), ["a-word-longer-than-any-terminal", "is"]);
    }
}
