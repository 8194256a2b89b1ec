//! Merging calibrations over different texts.

use std::path::{Path, PathBuf};

use passes::calibration::Calibration;
use plan::partial::{self, PartialFolder};

use super::activation_file::ActivationFile;
use super::activation_writer::ActivationWriter;
use super::format::TensorEntry;
use super::output_lock::OutputLock;
use super::resume::write_whole;
use super::{activations_path, read_calibration};
use crate::Error;

/// Merges calibrations of one model, and their activations files if all have one; returns whether they did.
pub fn merge_calibrations(files: &[PathBuf], out: &Path) -> Result<bool, Error> {
    let _lock = OutputLock::take(out)?;
    let read = files.iter().map(|path| read_calibration(path)).collect::<Result<Vec<_>, Error>>()?;
    check_distinct(files, &read)?;
    let weights: Vec<u64> = read.iter().map(|calibration| calibration.tokens).collect();
    let mut read = read.into_iter();
    let Some(mut merged) = read.next() else {
        return Err(Error::Usage("expected calibrations to merge".to_owned()));
    };
    for (path, other) in files.iter().skip(1).zip(read) {
        merged.merge(&other).map_err(|error| Error::BadInput(format!("{}: {error}", path.display())))?;
    }
    let sides: Vec<PathBuf> = files.iter().map(|path| activations_path(path)).collect();
    let complete = sides.iter().all(|path| path.is_file());
    if complete {
        merge_activations(&sides, &weights, &activations_path(out))?;
    }
    write_whole(out, merged.print().as_bytes())?;
    Ok(complete)
}

/// Refuses files over the same samples, which would count twice. The clipping method may differ.
fn check_distinct(files: &[PathBuf], read: &[Calibration]) -> Result<(), Error> {
    let same = |a: &Calibration, b: &Calibration| Calibration { method: b.method, ..a.clone() } == *b;
    for (index, (path, calibration)) in files.iter().zip(read).enumerate() {
        if let Some(first) = read[..index].iter().position(|other| same(other, calibration)) {
            let (first, second) = (files[first].display(), path.display());
            return Err(Error::Usage(format!(
                "{first} and {second} are of the same samples, which would count twice: expected calibrations of \
                 different texts"
            )));
        }
    }
    Ok(())
}

/// Merges files whose Hessians are means over these numbers of tokens. The rows with the smallest keys are kept, as
/// many as in the file with the most.
pub(super) fn merge_activations(files: &[PathBuf], tokens: &[u64], out: &Path) -> Result<(), Error> {
    let files = files.iter().map(|path| ActivationFile::open(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = files.first() else { return Ok(()) };
    let tensors = first.tensors();
    for file in &files {
        if file.model() != first.model() || file.tensors() != tensors {
            let reason = "has other tensors, or is of another model: only files of one model and layout can be merged";
            return Err(Error::BadInput(format!("{}: {reason}", file.path().display())));
        }
    }
    let most = files.iter().map(|file| file.keys().len()).max().unwrap_or(0);
    // key, file and row
    let mut kept: Vec<(u64, usize, usize)> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        kept.extend(file.keys().iter().enumerate().map(|(row, key)| (*key, index, row)));
    }
    kept.sort_unstable();
    kept.truncate(most);
    let writer = ActivationWriter::new(first.model(), kept.iter().map(|(key, ..)| *key).collect(), &tensors);
    let io = |error| Error::Io { path: out.to_owned(), error };
    let place = partial::place(out).map_err(io)?;
    let folder = PartialFolder::create_in(partial::folder_of(&place)).map_err(io)?;
    let complete = folder.path().join("merged.safetensors");
    let mut target = writer.create(&complete)?;
    let total: u64 = tokens.iter().sum();
    for TensorEntry { name, channels, hessian } in &tensors {
        let rows: Vec<_> = files.iter().map(|file| file.tensor_rows(name)).collect();
        for (place, (_, file, row)) in kept.iter().enumerate() {
            let values = rows[*file].as_ref().and_then(|rows| rows.values.get(row * channels..(row + 1) * channels));
            writer.write_row(&mut target, name, place, values.unwrap_or_default()).map_err(io)?;
        }
        if *hessian {
            let mut mean = vec![0.0; channels * channels];
            for (file, tokens) in files.iter().zip(tokens) {
                let share = *tokens as f32 / total.max(1) as f32;
                let hessian = file.tensor_hessian(name).unwrap_or_default();
                mean.iter_mut().zip(hessian).for_each(|(mean, value): (&mut f32, f32)| *mean += share * value);
            }
            writer.write_hessian(&mut target, name, &mean).map_err(io)?;
        }
    }
    target.sync_all().map_err(io)?;
    partial::replace(&complete, &place).map_err(io)
}
