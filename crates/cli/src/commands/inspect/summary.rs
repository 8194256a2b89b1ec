//! `smelt inspect` without options: a plan in figures.

use serde::Serialize;
use smelt::PlanFile;

use super::precision::Precision;
use crate::output::bytes;

/// A plan in figures. Sizes are in bytes.
#[derive(Serialize)]
pub struct Summary {
    schema_version: u32,
    target: String,
    format_version: u32,
    file_bytes: u64,
    architecture: String,
    parameters: u64,
    vocab_size: u32,
    bos: Option<u32>,
    eos: Vec<u32>,
    max_batch_size: u32,
    max_input_len: u32,
    max_seq_len: u32,
    max_num_tokens: u32,
    weights: usize,
    weight_bytes: u64,
    stored_weight_bytes: u64,
    kv: Vec<KvSummary>,
    precision: Option<String>,
    kernels: Vec<String>,
    programs: Vec<ProgramSummary>,
    config: Vec<(String, String)>,
    inputs: Vec<InputSummary>,
}

#[derive(Serialize)]
struct KvSummary {
    dtype: String,
    layers: u32,
    kv_heads: u32,
    head_dim: u32,
    block_tokens: u32,
    blocks: u32,
    bytes: u64,
}

#[derive(Serialize)]
struct ProgramSummary {
    name: String,
    steps: usize,
    arena_bytes: u64,
}

#[derive(Serialize)]
struct InputSummary {
    name: String,
    bytes: u64,
    blake3: String,
}

impl Summary {
    /// The figures of a plan.
    pub fn of(file: &PlanFile) -> Summary {
        let plan = file.plan();
        let (model, limits) = (&plan.model, &plan.limits);
        Summary {
            schema_version: 1,
            target: plan.target.clone(),
            format_version: smelt::FORMAT_VERSION,
            file_bytes: file.bytes(),
            architecture: model.architecture.clone(),
            parameters: model.parameters,
            vocab_size: model.vocab_size,
            bos: model.bos,
            eos: model.eos.clone(),
            max_batch_size: limits.max_batch_size,
            max_input_len: limits.max_input_len,
            max_seq_len: limits.max_seq_len,
            max_num_tokens: limits.max_num_tokens,
            weights: plan.weights.len(),
            weight_bytes: plan.weights.iter().filter_map(|weight| weight.bytes()).sum(),
            stored_weight_bytes: file.weights().len() as u64,
            kv: plan
                .kv
                .iter()
                .map(|group| KvSummary {
                    dtype: group.dtype.to_string(),
                    layers: group.layers,
                    kv_heads: group.kv_heads,
                    head_dim: group.head_dim,
                    block_tokens: group.block_tokens,
                    blocks: group.blocks,
                    bytes: group.pool_bytes(),
                })
                .collect(),
            precision: Precision::of(plan).map(|precision| precision.summary()),
            kernels: plan.kernels.iter().map(|kernel| kernel.name.clone()).collect(),
            programs: plan
                .programs
                .iter()
                .map(|program| ProgramSummary {
                    name: program.name.clone(),
                    steps: program.steps.len(),
                    arena_bytes: program.arena_bytes,
                })
                .collect(),
            config: plan.config.clone(),
            inputs: plan
                .inputs
                .iter()
                .map(|input| InputSummary {
                    name: input.name.clone(),
                    bytes: input.bytes,
                    blake3: input.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
                })
                .collect(),
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ("target".to_owned(), format!("{}, plan format {}", self.target, self.format_version)),
            ("model".to_owned(), format!("{}, {} parameters", self.architecture, self.parameters)),
            ("vocabulary".to_owned(), format!("{}, eos {:?}", self.vocab_size, self.eos)),
            (
                "limits".to_owned(),
                format!(
                    "{} sequences of {} tokens (prompts of {}), {} tokens per step",
                    self.max_batch_size, self.max_seq_len, self.max_input_len, self.max_num_tokens
                ),
            ),
            ("file".to_owned(), bytes(self.file_bytes)),
            (
                "weights".to_owned(),
                format!(
                    "{} tensors, {} ({} stored)",
                    self.weights,
                    bytes(self.weight_bytes),
                    bytes(self.stored_weight_bytes)
                ),
            ),
        ];
        for kv in &self.kv {
            let shape = format!("{} layers x {} heads x {}", kv.layers, kv.kv_heads, kv.head_dim);
            let pool = format!("{} blocks of {} tokens, {}", kv.blocks, kv.block_tokens, bytes(kv.bytes));
            rows.push(("KV cache".to_owned(), format!("{} {shape}, {pool}", kv.dtype)));
        }
        rows.extend(self.precision.iter().map(|precision| ("precision".to_owned(), precision.clone())));
        rows.push(("kernels".to_owned(), counted(&self.kernels)));
        for program in &self.programs {
            let text = format!("{}, {} steps, arena {}", program.name, program.steps, bytes(program.arena_bytes));
            rows.push(("program".to_owned(), text));
        }
        for (key, value) in self.config.iter().filter(|(_, value)| !value.is_empty()) {
            rows.push(("config".to_owned(), format!("{key} = {value}")));
        }
        for input in &self.inputs {
            rows.push(("made from".to_owned(), format!("{} ({}) {}", input.name, bytes(input.bytes), input.blake3)));
        }
        rows.into_iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
    }
}

/// Names in the order of their first, each with its number if it is there more than once.
fn counted(names: &[String]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for name in names {
        match counts.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let text = counts.iter().map(|(name, count)| match count {
        1 => (*name).to_owned(),
        count => format!("{name} x{count}"),
    });
    text.collect::<Vec<_>>().join(", ")
}
