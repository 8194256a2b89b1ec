//! Measured losses, kept in a file for later searches with another goal, or after an interruption.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use passes::quantize::Format;
use plan::input::{self, TEXT_BYTES};

use crate::Progress;

/// A directory of measurements, one file per set of inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossCache {
    folder: PathBuf,
    salt: String,
}

impl LossCache {
    /// A cache in this directory, which is created on first write. `salt` distinguishes builds of the program.
    pub fn new(folder: PathBuf, salt: impl Into<String>) -> LossCache {
        LossCache { folder, salt: salt.into() }
    }
}

/// The losses of formats, by the first linear layer of each group.
#[derive(Debug, Default)]
pub(super) struct Losses {
    path: Option<PathBuf>,
    known: BTreeMap<(String, Format), f64>,
}

impl Losses {
    /// The losses for a model, a text and everything else that decides them. An unreadable file is ignored.
    pub fn open(cache: Option<&LossCache>, of: &str) -> Losses {
        let Some(LossCache { folder, salt }) = cache else { return Losses::default() };
        let hash = blake3::hash(format!("{} {salt} {of}", env!("CARGO_PKG_VERSION")).as_bytes()).to_hex();
        let path = folder.join(format!("{}.losses", &hash[..32]));
        let text = input::read_text(&path, TEXT_BYTES).unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.split(' ');
            let (linear, format, kl) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(((linear.to_owned(), format), kl))
        };
        Losses { path: Some(path), known: text.lines().filter_map(entry).collect() }
    }

    pub fn get(&self, linear: &str, format: Format) -> Option<f64> {
        self.known.get(&(linear.to_owned(), format)).copied()
    }

    /// Saves a loss. If the file cannot be written, the search continues without.
    pub fn add(&mut self, linear: &str, format: Format, kl: f64, progress: &mut dyn Progress) {
        let Some(path) = &self.path else { return };
        self.known.insert((linear.to_owned(), format), kl);
        let mut text = String::new();
        for ((linear, format), kl) in &self.known {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{linear} {format} {kl:e}");
        }
        let folder = plan::partial::folder_of(path);
        let written = fs::create_dir_all(folder).and_then(|()| plan::partial::write_file(path, text.as_bytes()));
        if let Err(error) = written {
            progress.note(&format!("measurements are not saved: {}: {error}", path.display()));
            self.path = None;
        }
    }
}
