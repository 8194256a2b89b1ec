//! Which files of a directory hold the weights: one safetensors file, or shards with an index. Other formats are
//! refused with a hint how to convert them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use plan::input::{INDEX_BYTES, InputFile, Stamp};
use serde_json::Value;

use crate::json::{self, Object};
use crate::report::{Report, listed};
use crate::tensors::{Shard, Tensors, shard_path};

const SINGLE: &str = "model.safetensors";
/// The name of the index.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Unsupported formats, by file extension.
const FOREIGN: [(&[&str], &str); 4] = [
    (
        &[".bin", ".pt", ".pth", ".bin.index.json"],
        "pickle files can run code when they are loaded, so they are refused: convert them with transformers, \
         `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, safe_serialization=True)`",
    ),
    (&[".gguf"], "GGUF is not supported: use the Hugging Face form of the checkpoint, with model.safetensors"),
    (
        &["params.json", "consolidated.safetensors", "tekken.json"],
        "the vendor's own format is not supported: use the Hugging Face form of the checkpoint, with config.json and \
         model.safetensors",
    ),
    (
        &["adapter_model.safetensors"],
        "an adapter alone is not a model: merge it into its base, `model.merge_and_unload().save_pretrained(OUT)`",
    ),
];

/// A hint for each foreign format in the directory, or for the file that was given instead.
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

/// Files next to the weights that change them.
const CHANGES: [(&str, &str); 1] =
    [("adapter_config.json", "an adapter: merge it into the model, `model.merge_and_unload().save_pretrained(OUT)`")];

/// The weights of a checkpoint, and the index if there is one.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    pub tensors: Tensors,
    pub index: Option<(Vec<u8>, Stamp)>,
}

/// Opens the weights of a directory.
pub(crate) fn open(folder: &Path, report: &mut Report) -> Option<WeightFiles> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    // Dangling links count: opening them gives the better message.
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    for (name, what) in CHANGES.into_iter().filter(|(name, _)| there(&folder.join(name))) {
        report.unsupported(format!("{}: {what}", folder.join(name).display()));
    }
    if there(&single) {
        if there(&index) {
            // transformers takes the single file, too.
            report.warning(format!("{}: ignored, since {SINGLE} exists", index.display()));
        }
        let shard = Shard::open(single.clone(), report)?;
        return Some(WeightFiles { tensors: Tensors::new(single, vec![shard], |_, _| true), index: None });
    }
    if there(&index) {
        return open_sharded(folder, index, report);
    }
    let (shards, numbers) = numbered(folder);
    if !shards.is_empty() {
        return open_without_index(folder, &shards, &numbers, report);
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
    for name in &names {
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
            complete &= check_shard(&path, name, &shard, &weight_map, report);
            shards.push(shard);
        }
    }
    if !complete {
        return None;
    }
    let unread: Vec<String> = numbered(folder).0.into_iter().filter(|name| !names.contains(&name.as_str())).collect();
    if !unread.is_empty() {
        let unread: Vec<&str> = unread.iter().map(String::as_str).collect();
        report.warning(format!("{}: does not name {}: not read", path.display(), listed(&unread)));
    }
    check_copies(&path, &shards, |name| !weight_map.contains_key(name), report)?;
    // of several copies, the one in the index's shard is used
    let counts = |shard: &Shard, name: &str| weight_map.get(name).is_none_or(|file| *file == shard.file_name());
    let tensors = Tensors::new(path.clone(), shards, counts);
    check_total(index, &tensors, report);
    Some(WeightFiles { tensors, index: Some((bytes, stamp)) })
}

/// Files of a directory whose names number them, `model-00001-of-00002.safetensors`, sorted; and the numbers of each.
fn numbered(folder: &Path) -> (Vec<String>, Vec<[u32; 2]>) {
    let numbers = |name: &str| {
        let (name, all) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (_, number) = name.rsplit_once('-')?;
        Some([number.parse().ok()?, all.parse().ok()?])
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| numbers(name).is_some()).collect();
    names.sort_unstable_by_key(|name| numbers(name));
    let numbers = names.iter().filter_map(|name| numbers(name)).collect();
    (names, numbers)
}

/// Reads shards without an index: all of them, which must be complete.
fn open_without_index(
    folder: &Path,
    names: &[String],
    numbers: &[[u32; 2]],
    report: &mut Report,
) -> Option<WeightFiles> {
    let count = numbers.first().map_or(0, |[_, count]| *count);
    let complete = numbers.iter().copied().eq((1..=count).map(|number| [number, count]));
    let (folder_name, listed_names) = (folder.display(), names.iter().map(String::as_str).collect::<Vec<_>>());
    if !complete {
        report.bad_input(format!(
            "{folder_name}: no {INDEX}, and {} are not all shards of a model: expected the index, or shards 1 to {count} of \
             {count}",
            listed(&listed_names)
        ));
        return None;
    }
    report.warning(format!("{folder_name}: no {INDEX}: all tensors of the {count} shards are read"));
    let shards: Vec<Option<Shard>> = names.iter().map(|name| Shard::open(folder.join(name), report)).collect();
    let shards: Vec<Shard> = shards.into_iter().collect::<Option<_>>()?;
    check_copies(folder, &shards, |_| true, report)?;
    Some(WeightFiles { tensors: Tensors::new(folder.to_owned(), shards, |_, _| true), index: None })
}

/// Refuses tensors that are in several shards if no index selects one.
fn check_copies(path: &Path, shards: &[Shard], undecided: impl Fn(&str) -> bool, report: &mut Report) -> Option<()> {
    let mut names: Vec<String> = shards.iter().flat_map(Shard::names).filter(|name| undecided(name)).collect();
    names.sort_unstable();
    let copies: BTreeSet<&str> =
        names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0].as_str()).collect();
    if copies.is_empty() {
        return Some(());
    }
    let copies: Vec<&str> = copies.into_iter().collect();
    report.bad_input(format!(
        "{}: {} are in several shards: expected an index that selects one",
        path.display(),
        listed(&copies)
    ));
    None
}

/// The shard of each tensor.
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

/// Compares a shard with the index, in both directions. Tensors that should be in it must be; copies of others are left
/// by programs that write a changed tensor to a new shard. Returns whether the shard is complete.
fn check_shard(
    index: &Path,
    file: &str,
    shard: &Shard,
    weight_map: &BTreeMap<&str, &str>,
    report: &mut Report,
) -> bool {
    let stored = shard.names();
    let elsewhere = |name: &&str| weight_map.get(name).is_some_and(|mapped| *mapped != file);
    let copies: Vec<&str> = stored.iter().map(String::as_str).filter(elsewhere).collect();
    let unlisted: Vec<&str> = stored.iter().map(String::as_str).filter(|name| !weight_map.contains_key(name)).collect();
    let mapped = weight_map.iter().filter(|(_, mapped)| **mapped == file).map(|(name, _)| *name);
    let absent: Vec<&str> =
        mapped.filter(|name| stored.binary_search_by(|stored| stored.as_str().cmp(name)).is_err()).collect();
    let (index, path) = (index.display(), shard.path.display());
    if !copies.is_empty() {
        let copies = listed(&copies);
        report
            .warning(format!("{path}: holds {copies}, which {index} places in other shards: these copies are ignored"));
    }
    if !unlisted.is_empty() {
        let unlisted = listed(&unlisted);
        report.warning(format!("{path}: holds {unlisted}, which {index} does not list: read anyway"));
    }
    if !absent.is_empty() {
        report.bad_input(format!("{path}: does not contain {}, which {index} places there", listed(&absent)));
    }
    absent.is_empty()
}

/// Compares `metadata.total_size` with the tensors. Only a warning: transformers and huggingface_hub add up the
/// *storages* of a model, so a tied lm_head that is stored twice counts once and a view counts with its whole storage;
/// and the offset of every tensor has been checked already.
fn check_total(index: Object<'_>, tensors: &Tensors, report: &mut Report) {
    let Some(total) = index.get("metadata").and_then(|metadata| metadata.get("total_size")) else { return };
    let bytes = tensors.total_bytes();
    // As a float, too: some writers divide.
    if total.as_u64() != Some(bytes) && total.as_f64() != Some(bytes as f64) {
        report.warning(index.found("metadata.total_size", total, format_args!("the tensors take {bytes} bytes")));
    }
}
