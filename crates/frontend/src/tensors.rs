//! Tensors of safetensors files: mapped, found by name, copied one range at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use plan::DType;
use plan::input::{InputFile, Stamp};
use plan::mapped::MappedFile;
use safetensors::tensor::{Dtype, Metadata};

use crate::report::{Report, listed};

/// The option that names tensors to ignore.
pub(crate) const IGNORE_OPTION: &str = "--ignore-tensors";

/// A mapped safetensors file with a valid header.
#[derive(Debug)]
pub(crate) struct Shard {
    pub path: PathBuf,
    /// The file's stamp when it was mapped.
    pub stamp: Stamp,
    map: MappedFile,
    /// Bytes of the header and of its length.
    header_bytes: usize,
    metadata: Metadata,
}

/// Where a tensor is.
#[derive(Debug)]
struct Stored {
    shard: usize,
    dtype: Dtype,
    shape: Vec<u64>,
    /// Bytes of the shard's file.
    bytes: Range<usize>,
}

/// All tensors of a checkpoint.
#[derive(Debug)]
pub(crate) struct Tensors {
    /// The file that names them: the index, or the only shard.
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Stored>,
}

impl Shard {
    /// Maps a file and reads its header.
    pub fn open(path: PathBuf, report: &mut Report) -> Option<Shard> {
        let opened = InputFile::open(&path).and_then(|file| Ok((file.map()?, file.stamp().clone())));
        let parsed = opened.map_err(|error| error.to_string());
        let parsed = parsed.and_then(|(map, stamp)| Ok((parse_header(&map)?, map, stamp)));
        match parsed {
            Ok(((header_bytes, metadata), map, stamp)) => Some(Shard { path, stamp, map, header_bytes, metadata }),
            Err(reason) => {
                report.bad_input(format!("{}: {reason}", path.display()));
                None
            }
        }
    }

    /// The length of the header, and the header.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.header_bytes]
    }

    /// Evenly spaced samples of the file: a different training run of the same shapes differs in them.
    pub fn sample(&self) -> impl Iterator<Item = &[u8]> {
        const PIECES: usize = 4096;
        const BYTES: usize = 64;
        let weights = &self.map[self.header_bytes..];
        let step = weights.len().div_ceil(PIECES).max(BYTES);
        weights.chunks(step).map(|chunk| &chunk[..chunk.len().min(BYTES)])
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The name of the file.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort_unstable();
        names
    }
}

/// Checks that a header is complete and that its tensors tile the rest of the file.
///
/// `SafeTensors::read_metadata` does the same, but adds up sizes of a hostile header without checking for overflow.
fn parse_header(file: &[u8]) -> Result<(usize, Metadata), String> {
    const LENGTH: usize = 8;
    // The limit of the safetensors library.
    const MAX_HEADER: u64 = 100_000_000;
    if file.starts_with(b"version https://git-lfs") {
        return Err("this is a Git LFS pointer, not the file itself: run `git lfs pull`".to_owned());
    }
    let total = file.len();
    let Some((length, rest)) = file.split_first_chunk::<LENGTH>() else {
        return Err(format!("the file is truncated: it has {total} bytes, expected a safetensors header"));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err("not a safetensors file: expected the length of a header in the first 8 bytes".to_owned());
    }
    let length = length as usize;
    let Some((header, data)) = rest.split_at_checked(length) else {
        return Err(format!("the file is truncated: it has {total} bytes, its header alone {length}"));
    };
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("invalid safetensors header: {error}"))?;
    let expected = metadata.data_len();
    match data.len() == expected {
        true => Ok((LENGTH + length, metadata)),
        false if data.len() < expected => {
            Err(format!("the file is truncated: its tensors take {expected} bytes, but the file has {}", data.len()))
        }
        false => Err(format!("its tensors take {expected} bytes, but the file has {}", data.len())),
    }
}

/// A tensor that must be in the files.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub name: String,
    pub shape: Vec<u64>,
    /// Any of these.
    pub dtypes: &'static [Dtype],
}

/// The dtypes of unquantized weights.
pub(crate) const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];

/// The same type, if the IR has it.
fn element_type(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::I8 => Some(DType::I8),
        Dtype::F8_E4M3 => Some(DType::F8E4M3),
        _ => None,
    }
}

impl Tensors {
    /// The selected tensors of each of these shards; `path` names them in messages.
    pub fn new(path: PathBuf, shards: Vec<Shard>, counts: impl Fn(&Shard, &str) -> bool) -> Tensors {
        let mut tensors = BTreeMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for (name, info) in shard.metadata.tensors().into_iter().filter(|(name, _)| counts(shard, name)) {
                let (start, end) = info.data_offsets;
                // In range: the header was compared with the file.
                let bytes = shard.header_bytes + start..shard.header_bytes + end;
                let shape = info.shape.iter().map(|size| *size as u64).collect();
                tensors.insert(name, Stored { shard: index, dtype: info.dtype, shape, bytes });
            }
        }
        Tensors { path, shards, tensors }
    }

    /// The file that names the tensors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The element type of a tensor, if it can be read.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.tensors.get(name).and_then(|tensor| element_type(tensor.dtype))
    }

    /// The element type of a tensor, which the IR may not have.
    pub fn stored_dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|tensor| tensor.dtype)
    }

    /// The sizes of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.tensors.get(name).map(|tensor| &tensor.shape[..])
    }

    /// All elements of an integer tensor; `None` for other types.
    pub fn integers(&self, name: &str) -> Vec<i64> {
        let (Some(tensor), Some(bytes)) = (self.tensors.get(name), self.bytes(name)) else { return Vec::new() };
        match tensor.dtype {
            Dtype::I64 => bytes.as_chunks().0.iter().map(|cell| i64::from_le_bytes(*cell)).collect(),
            Dtype::I32 => bytes.as_chunks().0.iter().map(|cell| i32::from_le_bytes(*cell).into()).collect(),
            _ => Vec::new(),
        }
    }

    /// The bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let tensor = self.tensors.get(name)?;
        self.shards.get(tensor.shard)?.map.get(tensor.bytes.clone())
    }

    /// Whether all elements of a tensor are zero, of either sign.
    pub fn is_zero(&self, name: &str) -> bool {
        let (Some(tensor), Some(bytes)) = (self.tensors.get(name), self.bytes(name)) else { return false };
        let sign = match tensor.dtype {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            _ => return bytes.iter().all(|byte| *byte == 0),
        };
        bytes.chunks(sign).all(|cell| {
            cell.split_last().is_some_and(|(last, rest)| last & 0x7f == 0 && rest.iter().all(|byte| *byte == 0))
        })
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether two tensors have the same dtype and sizes.
    pub fn alike(&self, a: &str, b: &str) -> bool {
        let kind = |name: &str| self.tensors.get(name).map(|tensor| (tensor.dtype, &tensor.shape));
        kind(a) == kind(b)
    }

    /// Renames a tensor.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(tensor) = self.tensors.remove(from) {
            self.tensors.insert(to.to_owned(), tensor);
        }
    }

    /// Removes the tensors of these names.
    pub fn forget(&mut self, mut unwanted: impl FnMut(&str) -> bool) -> usize {
        let before = self.tensors.len();
        self.tensors.retain(|name, _| !unwanted(name));
        before - self.tensors.len()
    }

    /// Compares the tensors with the required ones.
    pub fn check(&self, model: &[Expected], report: &mut Report) {
        let path = self.path.display();
        let names: BTreeMap<&str, &Expected> = model.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let missing: Vec<&str> =
            model.iter().map(|tensor| tensor.name.as_str()).filter(|name| !self.tensors.contains_key(*name)).collect();
        let extra: Vec<&str> =
            self.tensors.keys().map(String::as_str).filter(|name| !names.contains_key(name)).collect();
        let bare = |name: &&str| name.strip_prefix("model.").is_some_and(|name| self.tensors.contains_key(name));
        if missing.iter().any(bare) {
            let hint = "this was saved from a model without lm_head: save the `…ForCausalLM` instead";
            report.bad_input(format!("{path}: tensor names without the prefix `model.`; {hint}"));
            return;
        }
        if !missing.is_empty() {
            let (count, all) = (missing.len(), model.len());
            report.bad_input(format!("{path}: missing tensors, {count} of {all}: {}", listed(&missing)));
        }
        if !extra.is_empty() {
            let count = extra.len();
            report.bad_input(format!(
                "{path}: tensors that the model does not use, {count}: {}; {IGNORE_OPTION} NAME ignores tensors, and takes \
                 patterns such as `extra.*`",
                listed(&extra)
            ));
        }
        self.check_types(&names, report);
    }

    fn check_types(&self, model: &BTreeMap<&str, &Expected>, report: &mut Report) {
        const SHOWN: usize = 8;
        let mut shapes = Vec::new();
        let mut dtypes = Vec::new();
        for (name, stored) in &self.tensors {
            let Some(tensor) = model.get(name.as_str()) else { continue };
            let path = self.shards[stored.shard].path.display();
            if stored.shape != tensor.shape {
                let (found, expected) = (&stored.shape, &tensor.shape);
                shapes.push(format!("{path}: `{name}` has shape {found:?}, config.json makes it {expected:?}"));
            }
            if !tensor.dtypes.contains(&stored.dtype) {
                let expected = alternatives(tensor.dtypes);
                dtypes.push(format!("{path}: `{name}` has dtype {}, expected {expected}", stored.dtype));
            }
        }
        let more = |count: usize, what: &str| {
            let more = count.saturating_sub(SHOWN);
            (more > 0).then(|| format!("{}: {more} more have such {what}", self.path.display()))
        };
        let (more_shapes, more_dtypes) = (more(shapes.len(), "shapes"), more(dtypes.len(), "dtypes"));
        shapes.into_iter().take(SHOWN).chain(more_shapes).for_each(|message| report.bad_input(message));
        dtypes.into_iter().take(SHOWN).chain(more_dtypes).for_each(|message| report.unsupported(message));
    }

    /// Copies elements of a tensor.
    pub fn read(&self, name: &str, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let (dtype, bytes) =
            self.dtype(name).zip(self.bytes(name)).ok_or_else(|| format!("there is no tensor `{name}`"))?;
        let size = dtype.bytes();
        let count = bytes.len() as u64 / size;
        check_range(name, &elements, count, size, out.len())?;
        out.copy_from_slice(&bytes[(elements.start * size) as usize..(elements.end * size) as usize]);
        Ok(())
    }
}

/// `F32, F16 or BF16`.
fn alternatives(dtypes: &[Dtype]) -> String {
    let names: Vec<String> = dtypes.iter().map(Dtype::to_string).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// Checks that a read stays within a tensor of `count` elements and fills its buffer.
pub(crate) fn check_range(name: &str, elements: &Range<u64>, count: u64, size: u64, out: usize) -> Result<(), String> {
    if elements.start > elements.end || elements.end > count {
        return Err(format!("expected a range within the {count} elements of `{name}`, found {elements:?}"));
    }
    let wanted = (elements.end - elements.start) * size;
    match wanted == out as u64 {
        true => Ok(()),
        false => Err(format!("expected {wanted} bytes for {elements:?} of `{name}`, found {out}")),
    }
}

/// The path of a shard of this name: `None` unless the name is that of a file next to the index.
pub(crate) fn shard_path(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut components = Path::new(name).components();
    let single = matches!((components.next(), components.next()), (Some(std::path::Component::Normal(_)), None));
    (single && name.ends_with(".safetensors")).then(|| folder.join(name))
}
