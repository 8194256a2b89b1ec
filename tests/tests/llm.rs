//! The library as a program uses it: batches, stop tokens, limits, streams.

use std::path::Path;

use smelt::{
    CompileOptions, Driver, FinishReason, GenerationParams, Llm, LoadOptions, NewToken, PlanCache, Prompt, Quiet,
    TargetChoice,
};

fn load(model: &str, compile: CompileOptions) -> Llm {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(model);
    let options = LoadOptions { compile, ..LoadOptions::default() };
    Llm::load_with(&Driver::new(), &path, &options, &mut Quiet).unwrap()
}

fn params(max_tokens: u32) -> GenerationParams {
    GenerationParams { max_tokens, ..GenerationParams::default() }
}

#[test]
fn requests_wait_for_places_and_blocks() {
    let prompts: Vec<Prompt> = (1..=9u32).map(|n| Prompt::Tokens((2..2 + n * 15).collect())).collect();
    let mut wide = load("models/demo", CompileOptions::default());
    let expected = wide.generate(&prompts, &params(20)).unwrap();
    // room for two sequences, and for three blocks of 64 tokens in all
    let narrow = CompileOptions { max_batch_size: Some(2), kv_cache_bytes: Some(3 * 196_608), ..Default::default() };
    let mut narrow = load("models/demo", narrow);
    assert_eq!(narrow.generate(&prompts, &params(20)).unwrap(), expected);
    let error = narrow.generate(&[Prompt::Tokens(vec![2; 200])], &params(1)).unwrap_err();
    assert!(error.to_string().contains("take 4 KV blocks, the plan has 3"), "{error}");
    // a refused batch leaves no state
    assert_eq!(narrow.generate(&prompts, &params(20)).unwrap(), expected);
}

#[test]
fn generation_ends_at_stop_tokens_and_at_max_tokens() {
    // the second greedy token of this prompt is a stop token
    let mut llm = load("tests/oracle/llama-bias-wide-heads", CompileOptions::default());
    let prompt = [Prompt::Tokens(vec![308])];
    let stopped = llm.generate(&prompt, &params(24)).unwrap().remove(0);
    assert_eq!((stopped.token_ids, stopped.finish_reason), (vec![319, 319, 2], FinishReason::Stop));
    let cut = llm.generate(&prompt, &params(2)).unwrap().remove(0);
    assert_eq!((cut.token_ids, cut.finish_reason), (vec![319, 319], FinishReason::Length));
    let on = llm.generate(&prompt, &GenerationParams { ignore_eos: true, ..params(5) }).unwrap().remove(0);
    assert_eq!(on.token_ids, [319, 319, 2, 265, 134]);
    let nothing = llm.generate(&prompt, &params(0)).unwrap().remove(0);
    assert_eq!((nothing.token_ids, nothing.text), (Vec::new(), None));
    assert!(llm.generate(&[], &params(1)).unwrap().is_empty());
}

#[test]
fn pieces_join_to_the_text_and_come_in_order() {
    let mut llm = load("models/demo", CompileOptions::default());
    let prompts = ["A trait is", "This method"].map(Prompt::from);
    let mut pieces = vec![Vec::new(); 2];
    let mut on_token = |token: NewToken| pieces[token.prompt].push((token.id, token.text.unwrap()));
    let (generations, timings) = llm.generate_with(&prompts, &params(30), &mut on_token).unwrap();
    for (generation, pieces) in generations.iter().zip(&pieces) {
        let (ids, texts): (Vec<u32>, Vec<String>) = pieces.iter().cloned().unzip();
        assert_eq!((&generation.token_ids, generation.text.as_ref()), (&ids, Some(&texts.concat())));
        assert_eq!(generation.token_ids.len(), 30);
    }
    assert!(timings.prefill_ms > 0.0 && timings.decode_ms > 0.0 && timings.decode_tokens_per_s > 0.0);
    // the tokenizer prepends its `<|bos|>`
    assert_eq!(llm.tokens(&prompts[0]).unwrap()[0], 0);
}

#[test]
fn a_prompt_may_fill_the_plan_but_not_more() {
    let options = CompileOptions { max_seq_len: Some(70), max_input_len: Some(66), ..Default::default() };
    let mut llm = load("tests/oracle/llama-mha", options);
    let prompt = |n: usize| [Prompt::Tokens(vec![9; n])];
    assert_eq!(llm.generate(&prompt(66), &params(4)).unwrap()[0].token_ids.len(), 4);
    for (tokens, more, message) in [
        (67, 1, "the prompt has 67 tokens, the plan allows 66"),
        (66, 5, "are 71, the plan allows 70"),
        (0, 1, "the prompt is empty"),
    ] {
        let error = llm.generate(&prompt(tokens), &params(more)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_program_is_told_what_the_importer_warns_of() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle/llama-mha");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let config = config.replacen('{', "{\"attention_window_size\": 64,", 1);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let cached = || Some(PlanCache::new(folder.path().join("cache"), "test"));
    // compiled for this run, compiled into a cache, and read from there
    for cache in [None, cached(), cached()] {
        let compile = CompileOptions { target: TargetChoice::Named("cpu".to_owned()), ..CompileOptions::default() };
        let options = LoadOptions { compile, cache, ..LoadOptions::default() };
        let llm = Llm::load_with(&Driver::new(), folder.path(), &options, &mut Quiet).unwrap();
        let warnings = llm.warnings();
        let said = matches!(warnings, [warning] if warning.contains("`attention_window_size` is 64"));
        assert!(said, "{warnings:#?}");
    }
    let plan = std::fs::read_dir(folder.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    assert!(Llm::load(plan).unwrap().warnings().is_empty());
}

#[test]
fn profiling_mid_generation_leaves_no_state() {
    let compile = CompileOptions { max_batch_size: Some(3), max_num_tokens: Some(32), ..Default::default() };
    let mut llm = load("models/demo", compile);
    // longer than a block of the KV cache, which keeps them
    let prompts: Vec<Vec<u32>> = (0..3).map(|first| (first..first + 65).collect()).collect();
    let texts: Vec<Prompt> = prompts.iter().cloned().map(Prompt::Tokens).collect();
    let before = llm.generate(&texts, &params(12)).unwrap();
    let steps = llm.profile(&prompts, 12, 2).unwrap();
    let plan = llm.plan().plan();
    let [mixed, decode] = &steps[..] else { panic!("{} steps", steps.len()) };
    // two that generate, and as much of the third prompt as the step has room for
    assert_eq!(mixed.sequences.iter().map(|sequence| sequence.tokens).collect::<Vec<_>>(), [1, 1, 30]);
    assert_eq!((mixed.sequences[2].cached, mixed.decodes(plan)), (0, false));
    assert!(decode.decodes(plan) && decode.sequences.iter().all(|sequence| sequence.tokens == 1));
    // the last has generated 6: its prompt and 5 are cached
    assert_eq!(decode.sequences[2].cached, 70);
    for step in [mixed, decode] {
        let (launches, costs) = (&step.times.launches, step.costs(plan).unwrap());
        let planned = plan.programs[step.program].steps.len();
        assert_eq!((launches.len(), costs.len()), (planned, planned));
        assert!(launches.iter().all(|time| *time > 0.0) && step.times.apart > 0.0 && !step.times.captured);
    }
    // the work of the whole step, from its sizes and contexts
    let contexts: Vec<u64> = decode.sequences.iter().map(|sequence| sequence.cached + 1).collect();
    let whole = smelt::plans::step_cost(&plan.programs[decode.program], &decode.symbols, &contexts).unwrap();
    let sum = decode.costs(plan).unwrap().into_iter().map(|cost| cost.read).sum::<u64>();
    assert!(whole.read.abs_diff(sum) < whole.read / 1000, "{} and {sum} bytes", whole.read);
    assert_eq!(llm.generate(&texts, &params(12)).unwrap(), before);
    let error = llm.profile(&[vec![1; 4000]], 12, 2).unwrap_err();
    assert!(error.to_string().contains("the prompt has 4000 tokens"), "{error}");
    assert_eq!(llm.generate(&texts, &params(12)).unwrap(), before);
}
