//! Losses that were measured, kept in a file from which a search that was stopped, or that has another goal, goes on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use passes::quantize::Format;
use plan::input::{self, TEXT_BYTES};

use crate::Progress;

/// A folder that keeps what searches measure, a file for all that depends on the same things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossCache {
    folder: PathBuf,
    salt: String,
}

impl LossCache {
    /// A cache in this folder, which is made when something is put in it. `salt` tells one build of the program from
    /// another.
    pub fn new(folder: PathBuf, salt: impl Into<String>) -> LossCache {
        LossCache { folder, salt: salt.into() }
    }
}

/// The losses of formats, by the first linear of each group.
#[derive(Debug, Default)]
pub(super) struct Losses {
    path: Option<PathBuf>,
    known: BTreeMap<(String, Format), f64>,
}

impl Losses {
    /// What is known of a model, a text and whatever else decides what is measured. What cannot be read is measured anew.
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

    /// Keeps a loss. Where the file cannot be written, the search goes on without.
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
            progress.note(&format!("what is measured is not kept: {}: {error}", path.display()));
            self.path = None;
        }
    }
}
