//! What a caller learns while something takes long.

/// Receives the progress of a compilation.
pub trait Progress {
    /// A phase begins.
    fn phase(&mut self, name: &str);
    /// Bytes of weights written, and their total.
    fn weights(&mut self, written: u64, total: u64);
    /// Equal pieces of work done, and their total.
    fn items(&mut self, _: u64, _: u64) {}
    /// Something that the user may not expect.
    fn note(&mut self, _: &str) {}
    /// Something in the input, or in the output, that may not be what the user wants. If a checkpoint is compiled more
    /// than once, warnings may repeat.
    fn warning(&mut self, text: &str) {
        self.note(text);
    }
}

/// Progress of a part of the work, which each of its phases names.
pub(crate) struct Part<'a> {
    pub name: &'static str,
    pub progress: &'a mut dyn Progress,
}

impl Progress for Part<'_> {
    fn phase(&mut self, name: &str) {
        self.progress.phase(&format!("{}: {name}", self.name));
    }

    fn weights(&mut self, written: u64, total: u64) {
        self.progress.weights(written, total);
    }

    fn items(&mut self, done: u64, total: u64) {
        self.progress.items(done, total);
    }

    fn note(&mut self, text: &str) {
        self.progress.note(text);
    }

    fn warning(&mut self, text: &str) {
        self.progress.warning(text);
    }
}

/// Ignores progress.
#[derive(Debug)]
pub struct Quiet;

impl Progress for Quiet {
    fn phase(&mut self, _: &str) {}
    fn weights(&mut self, _: u64, _: u64) {}
}
