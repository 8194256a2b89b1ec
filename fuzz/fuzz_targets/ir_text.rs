//! Any text is a graph, or is refused with its place. A graph prints and parses back to the same text, is verified or
//! diagnosed at each stage, and takes the pipeline without a panic.

#![no_main]

use ir::{DerivedWeights, NoWeights, OpSet, Stage, text, verify};
use libfuzzer_sys::fuzz_target;
use passes::{PassContext, PassManager, Silent, pipeline};

fuzz_target!(|source: &str| {
    let ops = OpSet::standard();
    let mut graph = match text::parse(source, &ops) {
        Ok(parsed) => parsed.graph,
        Err(error) => return drop(error.to_string()),
    };
    let printed = text::print(&graph);
    let again = text::parse(&printed, &ops).expect("what was printed parses");
    assert_eq!(text::print(&again.graph), printed);

    let found = Stage::ALL.map(|stage| verify(&graph, stage).err().unwrap_or_default());
    found.iter().flatten().for_each(|diagnostic| drop(diagnostic.to_string()));
    // a graph that is no model may be refused at a later stage
    let weights = DerivedWeights::over(&NoWeights);
    let context = PassContext::new(&weights);
    let _ = PassManager::default().run(&pipeline::standard(), &mut graph, &context, &mut Silent);
});
