//! Compilation of whole models, from their `config.json` alone: arenas close to the lower bound, and a number of
//! kernels that does not grow with the layers.

use codegen::{Lowered, Target};
use passes::pipeline;
use tests::{SeededWeights, folder, lower, model_folders, model_graph, run_passes};

fn lowered(model: &std::path::Path, layers: Option<u32>, target: Target) -> Lowered {
    let graph = model_graph(model, layers, target).unwrap();
    let weights = SeededWeights::of(&graph, true);
    let (graph, _) = run_passes(&pipeline::standard(), &graph, &weights).unwrap();
    lower(&smelt::Driver::new(), &graph, target, &weights, 1).unwrap()
}

/// The lower bound of an arena: the live bytes of its fullest step.
#[test]
fn arenas_are_within_5_percent_of_the_lower_bound() {
    let mut worst = (1.0, String::new());
    for model in model_folders().unwrap() {
        for target in Target::ALL {
            for program in lowered(&model, None, target).plan.programs {
                let share = program.arena_bytes as f64 / program.fullest_step().bytes as f64;
                let name = format!("{} of {}, {target}", program.name, model.file_name().unwrap().display());
                assert!(share <= 1.05, "{name}: {share} times the lower bound");
                if share > worst.0 {
                    worst = (share, name);
                }
            }
        }
    }
    eprintln!("arenas: {:.3} times the lower bound at most {}", worst.0, worst.1);
}

#[test]
fn kernels_do_not_grow_in_number_with_the_layers() {
    let model = folder().join("../bench/configs/llama-3.1-8b");
    for target in Target::ALL {
        let [few, many] = [2, 12].map(|layers| lowered(&model, Some(layers), target).plan);
        assert_eq!(few.kernels, many.kernels);
        assert!(many.programs[0].steps.len() > 4 * few.programs[0].steps.len(), "there are more launches of them");
    }
}
