//! The graph of an imported checkpoint.

use frontend::{Checkpoint, ImportError, ImportOptions};
use ir::{Stage, verify};
use plan::DType;
use safetensors::tensor::Dtype;

use crate::checkpoints::{Tensor, options, tiny};

#[test]
fn one_layer_reads_like_the_files() {
    let checkpoint = Checkpoint::open(tiny().write().path()).unwrap();
    let options = ImportOptions { weights: DType::BF16, kv: DType::BF16, sampled_ids: Some(13), ..options() };
    let graph = checkpoint.graph(&options).unwrap();
    verify(&graph, Stage::Imported).unwrap();
    let text = ir::text::print(&graph);
    assert_eq!(text, include_str!("one-layer.ir"));
    let parsed = ir::text::parse(&text, &ir::OpSet::standard()).unwrap();
    assert_eq!(ir::text::print(&parsed.graph), text);
}

#[test]
fn casts_stand_where_dtypes_differ() {
    let mut files = tiny();
    let norm = Tensor { dtype: Dtype::F32, shape: vec![8], bytes: vec![0; 32] };
    files.tensors.insert("model.norm.weight".to_owned(), norm);
    let checkpoint = Checkpoint::open(files.write().path()).unwrap();
    let casts = |weights, activations| {
        let graph = checkpoint.graph(&ImportOptions { weights, activations, ..options() }).unwrap();
        verify(&graph, Stage::Imported).unwrap();
        let text = ir::text::print(&graph);
        let casts = text.lines().filter_map(|line| line.trim().split_once(" = cast "));
        casts.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(casts(DType::BF16, DType::BF16), ["%embedding.f32", "%model.norm.weight.bf16"]);
    assert_eq!(casts(DType::BF16, DType::F32), ["%embedding.f32", "%model.norm.weight.bf16"]);
    assert_eq!(casts(DType::F32, DType::F32).len(), 11);
    assert_eq!(casts(DType::F16, DType::BF16).len(), 12 + 1);
}

#[test]
fn more_ids_than_the_vocabulary_has_mean_all_of_it() {
    let checkpoint = Checkpoint::open(tiny().write().path()).unwrap();
    for sampled_ids in [None, Some(99)] {
        let text = ir::text::print(&checkpoint.graph(&ImportOptions { sampled_ids, ..options() }).unwrap());
        assert!(text.contains("argmax %logits {classes = 16}"), "{text}");
    }
}

#[test]
fn impossible_options_are_refused() {
    let checkpoint = Checkpoint::open(tiny().write().path()).unwrap();
    let wrong = ImportOptions { kv: DType::I32, block_tokens: 0, max_batch_size: 0, ..options() };
    let Err(ImportError::BadInput(messages)) = checkpoint.graph(&wrong) else { panic!("expected bad input") };
    assert_eq!(
        messages,
        [
            "the dtype of kv is i32, expected f32, f16, bf16, i8 or f8e4m3",
            "`block_tokens` is 0, expected at least 1",
            "`max_batch_size` is 0, expected at least 1",
        ]
    );
}
