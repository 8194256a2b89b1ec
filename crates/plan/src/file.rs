//! The plan file: a header page, the weight section, the metadata section.
//!
//! ```text
//! 0     magic "SMELTPLN", version u32, sections u32, target [u8; 16]
//! 32    two section entries: offset u64, bytes u64, BLAKE3 [u8; 32]   (weights, then metadata)
//! 128   BLAKE3 of bytes 0..128, then zeros up to 4096
//! 4096  weights, each tensor at a multiple of 256 bytes
//!       metadata: bincode of the plan and of the weight section's chunk hashes
//! ```
//! Numbers are little-endian. Every byte is covered by a hash or must be zero. The weight section's own hash is that
//! of its chunk hashes, so that its 16 MiB chunks can be verified by the threads that read them.

use std::fmt;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::input::{Changed, InputFile};
use crate::mapped::MappedFile;
use crate::partial::PartialFile;
use crate::{MAX_ERROR_BYTES, Plan, WEIGHT_ALIGN, clipped, codec};

/// Version of the file format. Plans of another version are refused.
pub const FORMAT_VERSION: u32 = 3;
/// Bytes of weights that one hash covers.
pub const CHUNK_BYTES: usize = 16 << 20;

const MAGIC: &[u8; 8] = b"SMELTPLN";
const HEADER_BYTES: u64 = 4096;
const HASHED_HEADER: usize = 128;
const TARGET_BYTES: usize = 16;

/// Errors of writing or reading a plan file.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file system's error.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        error: std::io::Error,
    },
    /// The file is not a plan.
    #[error("{0}: not a plan: it lacks the magic number of a plan; make one with `smelt compile DIR -o FILE.plan`")]
    NotAPlan(PathBuf),
    /// The file was written by another version.
    #[error("{path}: plan format {found}, this program reads {FORMAT_VERSION}: compile the checkpoint again")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file, or one of its inputs, changed meanwhile.
    #[error(transparent)]
    Changed(#[from] Changed),
    /// The file was damaged or truncated.
    #[error("{path}: the plan is corrupt: {reason}; compile the checkpoint again")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl PlanError {
    /// A damaged or inconsistent file. The reason is shortened, since a hostile file can make it long.
    pub fn corrupt(path: &Path, reason: impl fmt::Display) -> PlanError {
        PlanError::Corrupt { path: path.to_owned(), reason: clipped(reason, MAX_ERROR_BYTES) }
    }
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    plan: Plan,
    /// BLAKE3 of each [`CHUNK_BYTES`] of the weight section, the last one shorter.
    chunks: Vec<[u8; 32]>,
}

#[derive(Clone, Copy)]
struct Section {
    offset: u64,
    bytes: u64,
    hash: [u8; 32],
}

/// Writes a plan under a temporary name and renames it when complete: a failure leaves nothing.
pub struct PlanWriter {
    path: PathBuf,
    file: PartialFile,
    pending: Vec<u8>,
    chunks: Vec<[u8; 32]>,
    weight_bytes: u64,
}

impl PlanWriter {
    /// Starts a plan that will be at `path`.
    pub fn create(path: &Path) -> Result<PlanWriter, PlanError> {
        let io = |error| PlanError::Io { path: path.to_owned(), error };
        let mut file = PartialFile::create(path).map_err(io)?;
        file.file().write_all(&[0; HEADER_BYTES as usize]).map_err(io)?;
        let pending = Vec::with_capacity(CHUNK_BYTES);
        Ok(PlanWriter { path: path.to_owned(), file, pending, chunks: Vec::new(), weight_bytes: 0 })
    }

    /// Pads the weight section to [`WEIGHT_ALIGN`] and returns the offset at which the next weight starts.
    pub fn align(&mut self) -> Result<u64, PlanError> {
        let aligned = self.weight_bytes.next_multiple_of(WEIGHT_ALIGN);
        let padding = (aligned - self.weight_bytes) as usize;
        self.append(&[0; WEIGHT_ALIGN as usize][..padding])?;
        Ok(aligned)
    }

    /// Appends bytes to the weight section.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), PlanError> {
        self.weight_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.pending.len()));
            self.pending.extend_from_slice(head);
            if self.pending.len() == CHUNK_BYTES {
                self.flush_chunk()?;
            }
            bytes = tail;
        }
        Ok(())
    }

    /// Writes the metadata and the header, and renames the file. Returns its size in bytes.
    pub fn finish(mut self, plan: &Plan) -> Result<u64, PlanError> {
        if !self.pending.is_empty() {
            self.flush_chunk()?;
        }
        let weights = Section {
            offset: HEADER_BYTES,
            bytes: self.weight_bytes,
            hash: *blake3::hash(self.chunks.as_flattened()).as_bytes(),
        };
        let metadata = Metadata { plan: plan.clone(), chunks: std::mem::take(&mut self.chunks) };
        let metadata = codec::encode(&metadata)
            .map_err(|reason| self.io(std::io::Error::other(format!("the plan cannot be encoded: {reason}"))))?;
        let section = Section {
            offset: HEADER_BYTES + self.weight_bytes,
            bytes: metadata.len() as u64,
            hash: *blake3::hash(&metadata).as_bytes(),
        };
        let header = header(&plan.target, weights, section);
        let file = self.file.file();
        let written = file.write_all(&metadata);
        let written = written.and_then(|()| file.seek(SeekFrom::Start(0)));
        let written = written.and_then(|_| file.write_all(&header));
        let PlanWriter { path, file, .. } = self;
        written.and_then(|()| file.finish()).map_err(|error| PlanError::Io { path, error })?;
        Ok(section.offset + section.bytes)
    }

    fn flush_chunk(&mut self) -> Result<(), PlanError> {
        self.chunks.push(*blake3::hash(&self.pending).as_bytes());
        self.file.file().write_all(&self.pending).map_err(|error| PlanError::Io { path: self.path.clone(), error })?;
        self.pending.clear();
        Ok(())
    }

    fn io(&self, error: std::io::Error) -> PlanError {
        PlanError::Io { path: self.path.clone(), error }
    }
}

/// An opened plan: its metadata checked, its weights mapped.
#[derive(Debug)]
pub struct PlanFile {
    path: PathBuf,
    plan: Plan,
    hash: [u8; 32],
    chunks: Vec<[u8; 32]>,
    file: InputFile,
    map: MappedFile,
    weights: std::ops::Range<usize>,
}

impl PlanFile {
    /// Opens a plan file. Weight chunks are not read yet: see [`PlanFile::verify_chunk`].
    pub fn open(path: &Path) -> Result<PlanFile, PlanError> {
        let io = |error| PlanError::Io { path: path.to_owned(), error };
        let corrupt = |reason: String| PlanError::corrupt(path, reason);
        if path.is_dir() {
            return Err(PlanError::NotAPlan(path.to_owned()));
        }
        let file = InputFile::open(path).map_err(io)?;
        let map = file.map().map_err(io)?;
        if map.get(..MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(PlanError::NotAPlan(path.to_owned()));
        }
        let mut reader = HeaderReader { bytes: &map, at: MAGIC.len() };
        let found = reader.u32().ok_or_else(|| corrupt("the header is truncated".to_owned()))?;
        if found != FORMAT_VERSION {
            return Err(PlanError::Version { path: path.to_owned(), found });
        }
        let (weights, metadata) = read_header(&map).map_err(corrupt)?;
        let metadata: Metadata =
            codec::decode(&map[metadata]).map_err(|error| corrupt(format!("metadata: {error}")))?;
        let weight_bytes = weights.len();
        if metadata.chunks.len() != weight_bytes.div_ceil(CHUNK_BYTES) {
            return Err(corrupt("the size of the weight section does not match its hashes".to_owned()));
        }
        let entry = HeaderReader { bytes: &map, at: 32 }.section().map(|section| section.hash);
        if entry != Some(*blake3::hash(metadata.chunks.as_flattened()).as_bytes()) {
            return Err(corrupt("the weight section's hashes do not match the header".to_owned()));
        }
        let target = HeaderReader { bytes: &map, at: 16 }.target();
        if target.as_ref() != Some(&metadata.plan.target) {
            return Err(corrupt("header and metadata name different targets".to_owned()));
        }
        crate::check(&metadata.plan, weight_bytes as u64).map_err(|problems| corrupt(problems.to_string()))?;
        let hash = *blake3::hash(&map[..HEADER_BYTES as usize]).as_bytes();
        let Metadata { plan, chunks } = metadata;
        Ok(PlanFile { path: path.to_owned(), plan, hash, chunks, file, map, weights })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// BLAKE3 of the header, which holds the hashes of everything else: two files are equal where this is.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The weight section.
    pub fn weights(&self) -> &[u8] {
        &self.map[self.weights.clone()]
    }

    /// Number of chunks for [`PlanFile::verify_chunk`].
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Whether the file was not written to since it was opened, for callers that read it more than once. Another file
    /// may have replaced it.
    pub fn check_contents(&self) -> Result<(), PlanError> {
        Ok(self.file.check_contents()?)
    }

    /// Reads a chunk of weights and compares it with its hash.
    pub fn verify_chunk(&self, index: usize) -> Result<(), PlanError> {
        let start = index * CHUNK_BYTES;
        let weights = self.weights();
        let chunk = &weights[start..weights.len().min(start + CHUNK_BYTES)];
        if blake3::hash(chunk).as_bytes() == &self.chunks[index] {
            return Ok(());
        }
        let reason = format!("bytes {start}..{} of the weights do not match their hash", start + chunk.len());
        Err(PlanError::corrupt(&self.path, reason))
    }

    /// The bytes of a stored weight.
    ///
    /// # Panics
    /// If the weight is not one of this plan.
    pub fn stored(&self, offset: u64, bytes: u64) -> &[u8] {
        &self.weights()[offset as usize..(offset + bytes) as usize]
    }
}

fn header(target: &str, weights: Section, metadata: Section) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend(2u32.to_le_bytes());
    let mut name = target.as_bytes().to_vec();
    name.resize(TARGET_BYTES, 0);
    bytes.extend(name);
    for section in [weights, metadata] {
        bytes.extend(section.offset.to_le_bytes());
        bytes.extend(section.bytes.to_le_bytes());
        bytes.extend(section.hash);
    }
    debug_assert_eq!(bytes.len(), HASHED_HEADER);
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes.resize(HEADER_BYTES as usize, 0);
    bytes
}

/// Checks the header and that the sections tile the file; returns the ranges of weights and metadata.
fn read_header(map: &[u8]) -> Result<(std::ops::Range<usize>, std::ops::Range<usize>), String> {
    let hashed = map.get(..HEADER_BYTES as usize).ok_or("the header is truncated")?;
    let (fields, rest) = hashed.split_at(HASHED_HEADER);
    if rest[..32] != *blake3::hash(fields).as_bytes() || rest[32..].iter().any(|byte| *byte != 0) {
        return Err("the header does not match its hash".to_owned());
    }
    let mut reader = HeaderReader { bytes: map, at: 32 };
    let cut = "the header is truncated";
    let weights = reader.section().ok_or(cut)?;
    let metadata = reader.section().ok_or(cut)?;
    let length = map.len() as u64;
    let end = |section: &Section| section.offset.checked_add(section.bytes).filter(|end| *end <= length);
    let size = || format!("the file has {length} bytes, which does not match its header");
    let (weights_end, metadata_end) = (end(&weights).ok_or_else(size)?, end(&metadata).ok_or_else(size)?);
    if weights.offset != HEADER_BYTES || weights_end != metadata.offset || metadata_end != length {
        return Err(size());
    }
    let metadata_range = metadata.offset as usize..metadata_end as usize;
    if *blake3::hash(&map[metadata_range.clone()]).as_bytes() != metadata.hash {
        return Err("the metadata does not match its hash".to_owned());
    }
    Ok((weights.offset as usize..weights_end as usize, metadata_range))
}

struct HeaderReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl HeaderReader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn section(&mut self) -> Option<Section> {
        Some(Section { offset: self.u64()?, bytes: self.u64()?, hash: self.take()? })
    }

    fn target(&mut self) -> Option<String> {
        let name = self.take::<TARGET_BYTES>()?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(TARGET_BYTES);
        String::from_utf8(name[..end].to_vec()).ok()
    }
}
