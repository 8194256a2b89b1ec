//! Any file with sound hashes is a plan that `plan::check` has looked through, or is refused with a reason.
//!
//! The input is the fields of a header and the metadata section: what lies between is put there, and hashes are made right.
//! Without that, nothing behind them would ever be reached.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use plan::PlanFile;

const HEADER: usize = 4096;
const FIELDS: usize = 128;
/// Where the fields say how many bytes of weights there are, and where the metadata is.
const WEIGHT_BYTES: usize = 40;
const METADATA: usize = 80;
/// Weights are not read when a plan is opened: some zeros stand for them.
const MOST_WEIGHT_BYTES: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("smelt-fuzz-{}.plan", std::process::id()));
    fs::write(&path, whole_file(bytes)).expect("the folder for temporary files can be written");
    match PlanFile::open(&path) {
        Ok(file) => {
            assert!(!plan::dump(file.plan()).is_empty());
            for index in 0..file.chunk_count() {
                let _ = file.verify_chunk(index);
            }
        }
        Err(error) => drop(error.to_string()),
    }
});

fn whole_file(bytes: &[u8]) -> Vec<u8> {
    let Some((fields, metadata)) = bytes.split_at_checked(FIELDS) else { return bytes.to_vec() };
    let mut fields = fields.to_vec();
    let weights = u64::from_le_bytes(fields[WEIGHT_BYTES..WEIGHT_BYTES + 8].try_into().expect("8 bytes"));
    let weights = weights.min(MOST_WEIGHT_BYTES);
    let section = [HEADER as u64 + weights, metadata.len() as u64].map(u64::to_le_bytes);
    fields[WEIGHT_BYTES..WEIGHT_BYTES + 8].copy_from_slice(&weights.to_le_bytes());
    fields[METADATA..METADATA + 16].copy_from_slice(section.as_flattened());
    fields[METADATA + 16..].copy_from_slice(blake3::hash(metadata).as_bytes());
    let mut file = fields.clone();
    file.extend(blake3::hash(&fields).as_bytes());
    file.resize(HEADER + weights as usize, 0);
    file.extend(metadata);
    file
}
