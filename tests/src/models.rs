//! Whole models as graphs, from a `config.json` alone: any size, no weights.

use std::path::{Path, PathBuf};

use codegen::Target;
use frontend::{Checkpoint, ImportOptions};
use ir::Graph;
use serde_json::Value;

use crate::folder;

/// Every model of the repository: the demo, the oracles, and the benchmark shapes.
pub fn model_folders() -> Result<Vec<PathBuf>, String> {
    let root = folder().join("..");
    let mut found = vec![root.join("models/demo")];
    for parent in [root.join("tests/oracle"), root.join("bench/configs")] {
        let error = |error: std::io::Error| format!("{}: {error}", parent.display());
        for entry in std::fs::read_dir(&parent).map_err(error)? {
            found.push(entry.map_err(error)?.path());
        }
    }
    found.retain(|folder| folder.join("config.json").exists());
    found.sort();
    Ok(found)
}

/// The graph of the model in a directory as `compile` imports it for a target, for steps of 512 tokens and 8 sequences;
/// optionally with another number of layers.
pub fn model_graph(folder: &Path, layers: Option<u32>, target: Target) -> Result<Graph, String> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut config: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if let Some(layers) = layers {
        config["num_hidden_layers"] = layers.into();
    }
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(file.path(), config.to_string()).map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint::open_dummy(file.path()).map_err(|error| error.to_string())?;
    let dtype = checkpoint.dtype();
    let options = ImportOptions {
        weights: dtype,
        activations: target.activations(dtype),
        kv: dtype,
        block_tokens: target.block_tokens(),
        max_num_tokens: 512,
        max_batch_size: 8,
        max_logit_rows: 64,
        max_seq_len: checkpoint.config().max_position_embeddings.min(8192),
        sampled_ids: None,
    };
    checkpoint.graph(&options).map_err(|error| error.to_string())
}
