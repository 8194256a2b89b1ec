//! Evaluation of a model on a text: compared with the logits of transformers, with the demo model's card, and with
//! itself.

mod common;

use common::expected::{Expected, ORACLES};
use common::{demo, load, oracle};
use smelt::eval::{Passage, Score, WindowOptions, compare, score};
use smelt::{CompileOptions, DType, Llm, TargetChoice};

fn on_cpu(options: CompileOptions) -> CompileOptions {
    CompileOptions { target: TargetChoice::Named("cpu".to_owned()), ..options }
}

/// The loss of each scored token, by its index.
fn costs(llm: &mut Llm, tokens: &[u32], options: WindowOptions) -> (Score, Vec<(usize, f64)>) {
    let passage = Passage::of_tokens(Vec::new(), tokens.to_vec()).unwrap();
    let windows = options.resolve(llm, &passage).unwrap();
    let mut found = Vec::new();
    let score = score(llm, &passage, windows, &mut |position, token, nll| {
        assert_eq!(token, tokens[position]);
        found.push((position, nll));
    });
    (score.unwrap(), found)
}

/// `-ln softmax(logits)[token]`, as simply as possible.
fn cost(logits: &[f32], token: u32) -> f64 {
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    sum.ln() - f64::from(logits[token as usize])
}

#[test]
fn tokens_cost_what_they_cost_transformers() {
    for name in ORACLES {
        let expected = Expected::read(name);
        let mut llm = load(&oracle(name), on_cpu(CompileOptions::default())).unwrap();
        for (prompt, logits) in expected.prompts.iter().zip(&expected.logits).filter(|(prompt, _)| prompt.len() > 1) {
            let (score, found) = costs(&mut llm, prompt, WindowOptions::default());
            let rows = logits.chunks(logits.len() / prompt.len());
            let expected: Vec<f64> = rows.zip(&prompt[1..]).map(|(row, token)| cost(row, *token)).collect();
            assert_eq!(found.len(), expected.len());
            assert!(
                found.iter().zip(&expected).all(|((_, found), expected)| (found - expected).abs() < 1e-4),
                "{name}"
            );
            let mean = expected.iter().sum::<f64>() / expected.len() as f64;
            assert!((score.nll - mean).abs() < 1e-4 && (score.perplexity.ln() - score.nll).abs() < 1e-12, "{name}");
        }
    }
}

/// However a text is cut, a token's loss depends only on its window.
#[test]
fn each_token_is_scored_in_its_window() {
    let name = ORACLES[0];
    let tokens = Expected::read(name).prompts.into_iter().max_by_key(Vec::len).unwrap();
    for max_num_tokens in [5, 512] {
        let options =
            CompileOptions { max_num_tokens: Some(max_num_tokens), max_batch_size: Some(2), ..Default::default() };
        let mut llm = load(&oracle(name), on_cpu(options)).unwrap();
        for (context, stride) in [(16, 5), (16, 15), (7, 1), (64, 64)] {
            let options = WindowOptions { context: Some(context), stride: Some(stride) };
            let (score, found) = costs(&mut llm, &tokens, options);
            let places: Vec<usize> = found.iter().map(|(place, _)| *place).collect();
            assert!(places == (1..tokens.len()).collect::<Vec<_>>() && score.tokens == places.len());
            let (context, stride) = (context as usize, stride.min(context - 1) as usize);
            for (place, nll) in found {
                // the first window that reaches it
                let begin = (place + 1).saturating_sub(context).div_ceil(stride) * stride;
                let (_, alone) = costs(&mut llm, &tokens[begin..=place], WindowOptions::default());
                assert_eq!(alone.last(), Some(&(place - begin, nll)), "context {context}, stride {stride}");
            }
        }
    }
}

/// 2.0375 nats for each of 41,248 tokens, in windows of a bos token and 2,047 more: computed by transformers in f32
/// from the same weights.
#[test]
fn the_demo_model_costs_what_its_card_says() {
    let options = WindowOptions::default();
    let mut llm = load(&demo(), on_cpu(options.compile_options(CompileOptions::default()))).unwrap();
    let text = std::fs::read_to_string(demo().join("heldout.txt")).unwrap();
    let passage = Passage::new(&llm, &text).unwrap();
    let windows = options.resolve(&llm, &passage).unwrap();
    let found = score(&mut llm, &passage, windows, &mut |_, _, _| {}).unwrap();
    assert_eq!((found.tokens, windows.context), (41_248, 2048));
    assert!((found.nll - 2.0375).abs() < 5e-5, "{found:?}");
}

#[test]
fn a_plan_is_no_distance_from_itself_and_some_from_another_precision() {
    let name = ORACLES[1];
    let tokens = Expected::read(name).prompts.into_iter().max_by_key(Vec::len).unwrap();
    let passage = Passage::of_tokens(vec![1], tokens).unwrap();
    let load = |options| load(&oracle(name), on_cpu(options)).unwrap();
    let mut reference = load(CompileOptions::default());
    let windows = WindowOptions::default().resolve(&reference, &passage).unwrap();
    let same = compare(&mut reference, &mut load(CompileOptions::default()), &passage, windows).unwrap();
    assert!(same.kl.abs() < 1e-12 && same.top1 == 1.0 && same.plan == same.reference);
    assert!(same.values.len() == 1 && (same.values[0].name.as_str(), same.values[0].error) == ("logits", 0.0));
    let mut half = load(CompileOptions { dtype: Some(DType::BF16), max_num_tokens: Some(512), ..Default::default() });
    let found = compare(&mut reference, &mut half, &passage, windows).unwrap();
    assert!(found.kl > 0.0 && found.kl < 1e-2 && found.plan != found.reference, "{found:?}");
    let mut short = load(CompileOptions { max_num_tokens: Some(16), ..Default::default() });
    let error = compare(&mut reference, &mut short, &passage, windows).unwrap_err();
    assert!(error.to_string().contains("compile both with the same limits"), "{error}");
}
