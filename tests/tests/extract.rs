//! A graph cut in two, the second part over the outputs of the first, computes the same as in one piece.

use ir::{Environment, HostTensor, KvState, Output, Type, Value, evaluate};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};
use tests::{Piece, Scenario, SeededWeights, interpret, random_graph};

/// The values that ops after a position read of earlier ones; `None` if one is an effect.
fn alive(graph: &ir::Graph, place: usize) -> Option<Vec<Value>> {
    let before: HashSet<_> = graph.ops().take(place).collect();
    let readers = graph.ops().skip(place).flat_map(|id| graph.operands(id));
    let shown = graph.outputs().iter().map(|output| output.value);
    let mut alive: Vec<Value> =
        readers.chain(shown).filter(|value| before.contains(&value.op) && !graph.is_constant(*value)).collect();
    alive.sort_unstable();
    alive.dedup();
    alive.iter().all(|value| *graph.ty(*value) != Type::Effect).then_some(alive)
}

fn outputs(graph: &ir::Graph, values: &[Value]) -> Vec<Output> {
    let named = values.iter().map(|value| Output { name: graph.value_name(*value).to_owned(), value: *value });
    named.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_parts_compute_what_the_whole_did(
        pieces in prop::collection::vec(any::<Piece>(), 1..14),
        narrow in any::<bool>(),
        at in 0.0..1.0_f64,
    ) {
        let graph = random_graph(&pieces, narrow);
        let place = (graph.ops().count() as f64 * at) as usize;
        let Some(between) = alive(&graph, place) else { return Ok(()) };
        let first = ir::extract(&graph, &[], &outputs(&graph, &between)).unwrap();
        let second = ir::extract(&graph, &between, graph.outputs()).unwrap();
        for part in [&first, &second] {
            let found = ir::verify(part, ir::Stage::Imported).err();
            prop_assert!(found.is_none(), "{found:?}");
        }

        let weights = SeededWeights::of(&graph, false);
        let scenario = Scenario::new("parts", &BTreeMap::new(), &graph).unwrap();
        let expected = interpret(&graph, &weights, &scenario).unwrap();
        let (mut kv, mut second_kv) = (KvState::new(first.kv()), KvState::new(second.kv()));
        for (step, expected) in scenario.steps.iter().zip(expected) {
            let env = |inputs| Environment { weights: &weights, symbols: step.symbols.clone(), inputs };
            let values = evaluate(&first, &env(step.inputs.clone()), &mut kv).unwrap();
            let names = between.iter().map(|value| graph.value_name(*value).to_owned());
            let inputs: HashMap<String, HostTensor> = step.inputs.clone().into_iter().chain(names.zip(values)).collect();
            let values = evaluate(&second, &env(inputs), &mut second_kv).unwrap();
            let found: Vec<_> = values.into_iter().map(|value| value.data).collect();
            prop_assert_eq!(format!("{:?}", found), format!("{:?}", expected));
        }
    }
}

#[test]
fn an_effect_is_no_input() {
    let text = "graph @g<T in 1..8, B in 1..2>(%k: f32[T, 4], %positions: i32[T], %query_starts: i32[B + 1], \
                %block_table: i32[B, 2]) {\n  kv 0 : bf16 {layers = 3, kv_heads = 2, head_dim = 2, block_tokens = 4}\n  \
                %e = append_kv %k, %k, %positions, %query_starts, %block_table {group = 0, layer = 2} : effect\n  \
                %o = paged_attention %k, %e, %positions, %query_starts, %block_table {group = 0, layer = 2, \
                head_dim = 2, kv_heads = 2, scale = 0.5} : f32[T, 4]\n  return %o\n}\n";
    let graph = ir::text::parse(text, &ir::OpSet::standard()).unwrap().graph;
    let effect = graph.find("e").unwrap();
    let error = ir::extract(&graph, &[effect], graph.outputs()).unwrap_err();
    assert_eq!(error.to_string(), "`append_kv`: `%e` orders ops, only tensors can become inputs");
    // the remaining layer becomes the only one
    let part = ir::extract(&graph, &[], graph.outputs()).unwrap();
    assert!(ir::text::print(&part).contains("{layers = 1, ") && ir::text::print(&part).contains("layer = 0}"));
}
