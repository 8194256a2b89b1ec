//! Which files of a directory hold the weights: one safetensors file, or shards with an index. Files of other formats
//! are refused with the way to convert them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use plan::input::{INDEX_BYTES, InputFile, Stamp};
use serde_json::Value;

use crate::json::{self, Object};
use crate::report::{Report, listed};
use crate::tensors::{Shard, Tensors, shard_path};

const SINGLE: &str = "model.safetensors";
/// The name of the index of shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Formats that are not read, by the ends of their files' names.
const FOREIGN: [(&[&str], &str); 4] = [
    (
        &[".bin", ".pt", ".pth", ".bin.index.json"],
        "pickle files run code when they are read and are refused: convert them with transformers, \
         `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, safe_serialization=True)`",
    ),
    (&[".gguf"], "GGUF is not read: get the Hugging Face form of the checkpoint, with model.safetensors"),
    (
        &["params.json", "consolidated.safetensors", "tekken.json"],
        "the vendor's own format is not read: get the Hugging Face form of the checkpoint, with config.json and \
         model.safetensors",
    ),
    (
        &["adapter_model.safetensors"],
        "an adapter alone is not a model: merge it into its base, `model.merge_and_unload().save_pretrained(OUT)`",
    ),
];

/// A hint for each foreign format in the directory, or for the file that was given as one.
pub(crate) fn foreign_files(path: &Path) -> Vec<String> {
    let name = |name: &OsStr| name.to_string_lossy().into_owned();
    let mut names: Vec<String> = match path.is_file() {
        true => path.file_name().map(name).into_iter().collect(),
        false => fs::read_dir(path).into_iter().flatten().flatten().map(|entry| name(&entry.file_name())).collect(),
    };
    names.sort_unstable();
    let hint = |(ends, hint): &(&[&str], &str)| {
        let of_format = |name: &&String| ends.iter().any(|end| name.ends_with(end));
        let found: Vec<&str> = names.iter().filter(of_format).map(String::as_str).collect();
        (!found.is_empty()).then(|| format!("{}: found {}; {hint}", path.display(), listed(&found)))
    };
    FOREIGN.iter().filter_map(hint).collect()
}

/// Files beside the weights that change them.
const CHANGES: [(&str, &str); 1] =
    [("adapter_config.json", "an adapter: merge it into the model, `model.merge_and_unload().save_pretrained(OUT)`")];

/// The weights of a checkpoint, and the index where there is one.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    pub tensors: Tensors,
    pub index: Option<(Vec<u8>, Stamp)>,
}

/// Opens the weights of a directory.
pub(crate) fn open(folder: &Path, report: &mut Report) -> Option<WeightFiles> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    // Links count where they point nowhere: the message of opening them is the better one.
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    for (name, what) in CHANGES.into_iter().filter(|(name, _)| there(&folder.join(name))) {
        report.unsupported(format!("{}: {what}", folder.join(name).display()));
    }
    if there(&single) {
        if there(&index) {
            // transformers, too, takes the single file.
            report.warning(format!("{}: ignored, for {SINGLE} is there", index.display()));
        }
        let shard = Shard::open(single.clone(), report)?;
        return Some(WeightFiles { tensors: Tensors::new(single, vec![shard]), index: None });
    }
    if there(&index) {
        return open_sharded(folder, index, report);
    }
    let foreign = foreign_files(folder);
    if foreign.is_empty() {
        report.bad_input(format!("{}: no weights, expected {SINGLE} or {INDEX}", folder.display()));
    }
    foreign.into_iter().for_each(|hint| report.bad_input(hint));
    None
}

fn open_sharded(folder: &Path, path: PathBuf, report: &mut Report) -> Option<WeightFiles> {
    let read = InputFile::open(&path).and_then(|file| Ok((file.read(INDEX_BYTES)?, file.stamp().clone())));
    let (bytes, stamp) = match read {
        Ok(read) => read,
        Err(error) => {
            report.bad_input(format!("{}: {error}", path.display()));
            return None;
        }
    };
    let map = json::parse(&path, &bytes, report)?;
    let index = Object::new(&path, &map);
    let weight_map = read_weight_map(index, report)?;
    let mut shards = Vec::new();
    let mut complete = true;
    let mut names: Vec<&str> = weight_map.values().copied().collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let shard = match shard_path(folder, name) {
            Some(shard) => Shard::open(shard, report),
            None => {
                let name = name.escape_debug();
                let expected = "expected names of safetensors files in the same directory";
                report.bad_input(format!("{}: `weight_map` names `{name}`, {expected}", path.display()));
                None
            }
        };
        complete &= shard.is_some();
        if let Some(shard) = shard {
            check_shard(&path, name, &shard, &weight_map, report);
            shards.push(shard);
        }
    }
    if !complete {
        return None;
    }
    let tensors = Tensors::new(path.clone(), shards);
    check_total(index, &tensors, report);
    Some(WeightFiles { tensors, index: Some((bytes, stamp)) })
}

/// Which shard each tensor is in.
fn read_weight_map<'a>(index: Object<'a>, report: &mut Report) -> Option<BTreeMap<&'a str, &'a str>> {
    let expected = "an object that names the file of each tensor";
    if index.get("weight_map").is_none() {
        report.bad_input(index.missing("weight_map", format_args!("expected {expected}")));
    }
    let convert = |value: &'a Value| {
        let entries = value.as_object().filter(|map| !map.is_empty())?.iter();
        entries.map(|(name, file)| Some((name.as_str(), file.as_str()?))).collect()
    };
    index.expect("weight_map", expected, convert, report)
}

/// Compares a shard with what the index says of it, in both directions.
fn check_shard(index: &Path, file: &str, shard: &Shard, weight_map: &BTreeMap<&str, &str>, report: &mut Report) {
    let stored = shard.names();
    let here = |name: &str| weight_map.get(name) == Some(&file);
    let unmapped: Vec<&str> = stored.iter().map(String::as_str).filter(|name| !here(name)).collect();
    let mapped = weight_map.iter().filter(|(_, mapped)| **mapped == file).map(|(name, _)| *name);
    let absent: Vec<&str> =
        mapped.filter(|name| stored.binary_search_by(|stored| stored.as_str().cmp(name)).is_err()).collect();
    let (index, path) = (index.display(), shard.path.display());
    if !unmapped.is_empty() {
        report.bad_input(format!("{path}: holds {}, which {index} does not place there", listed(&unmapped)));
    }
    if !absent.is_empty() {
        report.bad_input(format!("{path}: lacks {}, which {index} places there", listed(&absent)));
    }
}

/// Compares `metadata.total_size` with the tensors. Only a warning: transformers and huggingface_hub add up the
/// *storages* of a model, so a tied head that is stored twice counts once and a view counts with all that it is cut
/// from; and every tensor's place has been checked already.
fn check_total(index: Object<'_>, tensors: &Tensors, report: &mut Report) {
    let Some(total) = index.get("metadata").and_then(|metadata| metadata.get("total_size")) else { return };
    let bytes = tensors.total_bytes();
    // As a float, too: some writers divide.
    if total.as_u64() != Some(bytes) && total.as_f64() != Some(bytes as f64) {
        report.warning(index.found("metadata.total_size", total, format_args!("the tensors take {bytes} bytes")));
    }
}
