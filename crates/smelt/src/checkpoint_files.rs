//! The files of a checkpoint directory, complete or not: nothing may overwrite them.

use std::fs;
use std::path::{Path, PathBuf};

use plan::input::{self, INDEX_BYTES};
use serde_json::Value;

/// The directory of a Hugging Face checkpoint and its files; only the path itself if it is not a directory.
pub fn checkpoint_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if name.ends_with(".index.json") {
            files.extend(shards(&path).into_iter().map(|shard| dir.join(shard)));
        }
        if is_of_checkpoint(&name) {
            files.push(path);
        }
    }
    files
}

/// By the naming conventions of Hugging Face's libraries. Other files in the directory may be plans and calibrations.
fn is_of_checkpoint(name: &str) -> bool {
    let texts = ["tokenizer", "vocab.", "merges.", "special_tokens_map.", "added_tokens.", "chat_template."];
    let weights = ["model", "pytorch_model", "consolidated"];
    texts.iter().any(|start| name.starts_with(start))
        || [".index.json", "config.json"].iter().any(|end| name.ends_with(end))
        || weights.iter().any(|start| name.starts_with(start))
            && [".safetensors", ".bin"].iter().any(|end| name.ends_with(end))
}

/// The files that an index names; none if it cannot be read, which the importer will report.
fn shards(index: &Path) -> Vec<String> {
    let text = input::read(index, INDEX_BYTES).unwrap_or_default();
    let map: Value = serde_json::from_slice(&text).unwrap_or_default();
    let Some(map) = map.get("weight_map").and_then(Value::as_object) else { return Vec::new() };
    let mut names: Vec<String> = map.values().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_checkpoint_are_known_by_their_names_and_by_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        fs::create_dir(dir.join("parts")).unwrap();
        let own =
            ["config.json", "generation_config.json", "tokenizer.json", "merges.txt", "model-00001-of-2.safetensors"];
        for name in
            own.iter().chain(&["model.plan", "calibration.json", "calibration.safetensors", "parts/a.safetensors"])
        {
            fs::write(dir.join(name), "").unwrap();
        }
        let index = r#"{"weight_map": {"x": "parts/a.safetensors", "y": "parts/a.safetensors"}}"#;
        fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
        let mut found = checkpoint_files(dir);
        found.sort();
        let more = ["model.safetensors.index.json", "parts/a.safetensors"];
        let mut expected: Vec<PathBuf> = own.iter().chain(&more).map(|name| dir.join(name)).collect();
        expected.push(dir.to_owned());
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(checkpoint_files(&dir.join("model.plan")), [dir.join("model.plan")]);
    }
}
