//! Checkpoints quantized as they are on the Hub: their logits against a float64 model of what their codes mean.

mod common;

use common::expected::{Expected, worst};
use common::{ids, load};
use smelt::{CompileOptions, DType, GenerationParams, TargetChoice};

/// A folder of `tests/quantized`, and how far a logit may be from what is expected. Where activations are codes, one that
/// lies between two may become the other.
const CHECKPOINTS: [(&str, f32); 12] = [
    ("ct-int8-token", 1e-4),
    ("ct-int8-static", 1e-4),
    ("ct-fp8-token", 1e-4),
    ("ct-fp8-block", 5e-3),
    ("ct-int4-group", 1e-4),
    ("ct-int4-zeros", 1e-4),
    ("ct-mixed", 1e-4),
    ("modelopt-fp8", 1e-4),
    ("fp8-block", 5e-3),
    ("awq", 1e-4),
    ("gptq", 1e-4),
    ("gptq-v2-int8", 1e-4),
];

/// Everything that is no code, the KV cache included, in f32.
fn in_f32() -> CompileOptions {
    let target = TargetChoice::Named("cpu".to_owned());
    CompileOptions { target, dtype: Some(DType::F32), ..CompileOptions::default() }
}

#[test]
fn logits_are_those_that_the_codes_mean() {
    let mut apart = Vec::new();
    for (name, tolerance) in CHECKPOINTS {
        let folder = tests::folder().join("quantized").join(name);
        let expected = Expected::of(&folder);
        let mut llm = load(&folder, in_f32()).unwrap();
        for (prompt, expected) in expected.prompts.iter().zip(&expected.logits) {
            let params = GenerationParams { max_tokens: 0, ignore_eos: true, logits: true };
            let found = llm.generate(&[ids(prompt)], &params).unwrap().remove(0);
            let error = worst(&found.logits, expected);
            eprintln!("{name}, {} tokens: {error:.1e}", prompt.len());
            apart.extend((error > tolerance).then_some((name, prompt.len(), error)));
        }
    }
    assert!(apart.is_empty(), "{apart:?}");
}
