//! Progress on stderr: a bar on a terminal, a line per phase in a file.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use smelt::Progress;
use smelt::plans::terminal::shown;

use crate::flags::with_flags;
use crate::output::print_error;

/// Warnings that were already printed: several parts of a command may open one checkpoint.
static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Progress on stderr.
pub struct Stderr {
    bar: Option<ProgressBar>,
    quiet: bool,
    phase: Option<(String, Instant)>,
}

impl Stderr {
    /// A bar on a terminal, otherwise a line for each finished phase; nothing where `quiet`.
    pub fn new(quiet: bool) -> Stderr {
        let bar = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Stderr { bar, quiet, phase: None }
    }

    fn end_phase(&mut self) {
        let Some((name, start)) = self.phase.take() else { return };
        let line = format!("{name} ({:.2} s)", start.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.println(shown(&line)),
            None if self.quiet => {}
            None => print_error(&line),
        }
    }

    /// A line that stays.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(shown(line)),
            None => print_error(line),
        }
    }

    /// Ends the last phase and clears the bar.
    pub fn finish(&mut self) {
        self.end_phase();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Stderr {
    fn phase(&mut self, name: &str) {
        self.end_phase();
        self.phase = Some((name.to_owned(), Instant::now()));
        if let Some(bar) = &self.bar {
            bar.set_style(ProgressStyle::default_spinner());
            bar.unset_length();
            bar.set_message(shown(name).into_owned());
        }
    }

    fn note(&mut self, text: &str) {
        self.say(&format!("note: {}", with_flags(text)));
    }

    fn warning(&mut self, text: &str) {
        let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(text.to_owned()) {
            self.say(&format!("warning: {}", with_flags(text)));
        }
    }

    fn items(&mut self, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {percent} %, {eta} left") {
                bar.set_style(style);
            }
            // the progress of an earlier run says nothing about this one's speed
            bar.set_position(done);
            bar.reset_eta();
        }
        bar.set_position(done);
    }

    fn weights(&mut self, written: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
                bar.set_style(style);
            }
        }
        bar.set_position(written);
    }
}
