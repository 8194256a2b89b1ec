//! Descriptions of smelt's kernels for lists and the reference: the ops of each, and the file with its code.

use crate::{About, Target};

macro_rules! kernels {
    ($folder:literal: $($name:ident: $($op:ident)|+, $file:literal;)*) => {
        &[$((stringify!($name), About { ops: &[$(stringify!($op)),+], file: concat!($folder, $file) })),*]
    };
}

const CPU: &[(&str, About)] = kernels! { "crates/runtime/src/cpu/":
    linear: linear|fused_linear, "linear.rs";
    quantize: quantize, "scales.rs";
    quantize_blocks: quantize_blocks, "scales.rs";
    paged_attention: paged_attention, "attention.rs";
    rope_append_kv: rope_append_kv, "rope.rs";
    add_rms_norm: add_rms_norm, "norm.rs";
    rms_norm: rms_norm, "norm.rs";
    add_layer_norm: add_layer_norm, "norm.rs";
    layer_norm: layer_norm, "norm.rs";
    swiglu: swiglu, "rows.rs";
    embedding: embedding, "rows.rs";
    gather_rows: gather_rows, "rows.rs";
    argmax: argmax, "rows.rs";
    split: split, "rows.rs";
    map: map|add|cast|clamp|gelu|gelu_tanh|mul|offset|relu|scale|sigmoid|silu|silu_mul|softcap|tanh, "map.rs";
    rope: rope, "rope.rs";
    append_kv: append_kv, "rope.rs";
};

const SM_90A: &[(&str, About)] = kernels! { "kernels/":
    linear_few: linear|fused_linear, "linear/few.cuh";
    linear_skinny: linear|fused_linear, "linear/skinny.cuh";
    linear_wgmma: linear|fused_linear, "linear/wgmma.cuh";
    linear_wgmma_quantized: fused_linear, "linear/wgmma_quantized.cuh";
    linear_wgmma_weights: fused_linear, "linear/wgmma_weights.cuh";
    linear_reference_few: linear|fused_linear, "linear/reference.cuh";
    linear_reference: linear|fused_linear, "linear/reference.cuh";
    rope_attention_decode: rope_attention, "attention/decode.cuh";
    attention_decode: paged_attention, "attention/decode.cuh";
    attention_prefill: paged_attention, "attention/prefill.cuh";
    attention_reference: paged_attention, "attention/reference.cuh";
    rope_append_kv: rope_append_kv, "rope/rope.cuh";
    append_kv: append_kv, "rope/rope.cuh";
    rope: rope, "rope/rope.cuh";
    add_rms_norm: add_rms_norm, "norm/rms_norm.cuh";
    rms_norm: rms_norm, "norm/rms_norm.cuh";
    rms_norm_quantize: rms_norm_quantize, "rows/quantize.cuh";
    quantize_blocks: quantize_blocks, "rows/quantize.cuh";
    quantize: quantize, "rows/quantize.cuh";
    add_layer_norm: add_layer_norm, "norm/layer_norm.cuh";
    layer_norm: layer_norm, "norm/layer_norm.cuh";
    swiglu: swiglu, "rows/elementwise.cuh";
    map: map|add|cast|clamp|gelu|gelu_tanh|mul|offset|relu|scale|sigmoid|silu|silu_mul|softcap|tanh, "rows/map.cuh";
    split: split, "rows/split.cuh";
    embedding: embedding, "rows/embedding.cuh";
    gather_rows: gather_rows, "rows/embedding.cuh";
    argmax: argmax, "sampling/argmax.cuh";
};

/// The description of a kernel of a target.
pub(super) fn about(target: Target, name: &str) -> About {
    let list = match target {
        Target::Cpu => CPU,
        Target::Sm90a => SM_90A,
    };
    list.iter().find(|(known, _)| *known == name).map_or_else(About::default, |(_, about)| *about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_known_with_its_ops_and_its_file() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let ops = ir::OpSet::standard();
        for (target, list) in [(Target::Cpu, CPU), (Target::Sm90a, SM_90A)] {
            let listed: Vec<&str> = list.iter().map(|(name, _)| *name).collect();
            let catalog = target.catalog();
            let names: Vec<&str> = catalog.iter().map(|kernel| kernel.name()).collect();
            assert_eq!(names, listed, "{target}: the catalog and this list name the same kernels in one order");
            for (name, about) in list {
                assert!(root.join(about.file).is_file(), "{target}, {name}: there is no file {}", about.file);
                let unknown: Vec<_> = about.ops.iter().filter(|op| ops.find(op).is_none()).collect();
                assert!(unknown.is_empty(), "{target}, {name}: there are no ops {unknown:?}");
            }
        }
    }
}
