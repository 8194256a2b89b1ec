//! Encoding of a plan's metadata: bincode 2 with variable-length integers, and a limit on allocations.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Metadata holds the tokenizer, the largest of which are some 30 MB.
pub(crate) const LIMIT: usize = 512 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// The bytes of a value.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>, String> {
    bincode::serde::encode_to_vec(value, config()).map_err(|error| error.to_string())
}

/// The value of these bytes, all of which must be used.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, config()).map_err(|error| error.to_string())?;
    if used == bytes.len() { Ok(value) } else { Err(format!("{} trailing bytes", bytes.len() - used)) }
}
