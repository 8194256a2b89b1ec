//! Safetensors files as far as they are damaged here: a JSON header after its length, then bytes.

use serde_json::{Map, Value, json};

/// The header and the bytes after it.
pub fn split(file: &[u8]) -> Result<(Value, &[u8]), String> {
    let (length, rest) = file.split_first_chunk::<8>().ok_or("no header")?;
    let header = rest.get(..u64::from_le_bytes(*length) as usize).ok_or("a truncated header")?;
    let document = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    Ok((document, &rest[header.len()..]))
}

/// A file of a header, with its length before it, and bytes.
pub fn join(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// Names of files, and their bytes.
type Files = Vec<(String, Vec<u8>)>;

/// The same tensors in two files, and their index.
pub fn shards(file: &[u8]) -> Result<(Files, Value), String> {
    let (header, data) = split(file)?;
    let header = header.as_object().ok_or("a header that is not an object")?;
    let mut shards = [(Map::new(), Vec::new()), (Map::new(), Vec::new())];
    let mut map = Map::new();
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    for (index, (name, tensor)) in tensors.enumerate() {
        let offset = |end: usize| tensor["data_offsets"][end].as_u64().ok_or("a tensor without offsets");
        let bytes = &data[offset(0)? as usize..offset(1)? as usize];
        let (header, data) = &mut shards[index % 2];
        let mut tensor = tensor.clone();
        tensor["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
        header.insert(name.clone(), tensor);
        data.extend(bytes);
        map.insert(name.clone(), shard_name(index % 2).into());
    }
    let files = shards
        .into_iter()
        .enumerate()
        .map(|(index, (header, data))| (shard_name(index), join(Value::from(header).to_string().as_bytes(), &data)));
    Ok((files.collect(), json!({"metadata": {"total_size": data.len()}, "weight_map": map})))
}

fn shard_name(index: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", index + 1)
}
