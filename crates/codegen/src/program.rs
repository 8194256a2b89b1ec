//! The programs of a plan: the graph under several substitutions of its symbols.

use std::collections::BTreeMap;

use ir::Graph;
use plan::{Dim, Limits, ProgramKind, Symbol, SymbolDecl, SymbolValues, upper_bounds};

/// A program before kernel selection: its name, kind and sizes.
#[derive(Clone, Debug)]
pub struct ProgramShape {
    /// `decode@8`, `mixed@512`.
    pub name: String,
    /// What it is for.
    pub kind: ProgramKind,
    /// The substitution of the graph's symbols.
    pub replacements: BTreeMap<Symbol, Dim>,
    /// The symbols with their bounds in this program.
    pub symbols: Vec<SymbolDecl>,
}

/// Batch sizes of decode programs: powers of two while reading the weights sets the time of a step, then closer ones, since
/// the time of larger products grows with their rows.
const DECODE_BATCHES: [u64; 14] = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192, 224, 256];

/// Maximum tokens of the mixed programs for smaller steps, whose kernels have smaller tiles than those of the largest.
const MIXED_TOKENS: [u64; 3] = [256, 512, 1024];

impl ProgramShape {
    /// `decode@1, 2, 4, …` up to the largest batch, with all symbols equal to the batch; `mixed@T`, which keep the symbols,
    /// the largest last.
    pub fn all(graph: &Graph, limits: &Limits) -> Vec<ProgramShape> {
        let decode = decode_batches(limits.max_batch_size.into()).into_iter().map(|size| {
            let fixed = |decl: &SymbolDecl| SymbolDecl { symbol: decl.symbol.clone(), min: size, max: size };
            ProgramShape {
                name: format!("decode@{size}"),
                kind: ProgramKind::Decode,
                replacements: graph.symbols().iter().map(|decl| (decl.symbol.clone(), Dim::from(size))).collect(),
                symbols: graph.symbols().iter().map(fixed).collect(),
            }
        });
        let most = u64::from(limits.max_num_tokens);
        let mixed = MIXED_TOKENS.into_iter().filter(|size| *size < most / 2).chain([most]).map(|size| {
            let bounded = |decl: &SymbolDecl| SymbolDecl { max: decl.max.min(size.max(decl.min)), ..decl.clone() };
            ProgramShape {
                name: format!("mixed@{size}"),
                kind: ProgramKind::Mixed,
                replacements: BTreeMap::new(),
                symbols: match size == most {
                    true => graph.symbols().to_vec(),
                    false => graph.symbols().iter().map(bounded).collect(),
                },
            }
        });
        decode.chain(mixed).collect()
    }

    /// A size of the graph in this program.
    pub fn dim(&self, dim: &Dim) -> Dim {
        dim.substitute(&self.replacements)
    }

    /// The symbols at their largest.
    pub fn bounds(&self) -> SymbolValues {
        upper_bounds(&self.symbols)
    }

    /// The largest value of a size of the graph, if it has one.
    pub fn bound(&self, dim: &Dim) -> Option<u64> {
        self.dim(dim).eval(&self.bounds()).ok()
    }
}

/// Batches of the decode programs of a plan.
fn decode_batches(largest: u64) -> Vec<u64> {
    let doubled = std::iter::successors(DECODE_BATCHES.last().map(|size| size * 2), |size| Some(size * 2));
    let smaller = DECODE_BATCHES.into_iter().chain(doubled).take_while(|size| *size < largest);
    smaller.chain([largest.max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_fit_small_steps_and_the_largest() {
        assert_eq!(decode_batches(1), [1]);
        assert_eq!(decode_batches(6), [1, 2, 4, 6]);
        assert_eq!(decode_batches(128), [1, 2, 4, 8, 16, 32, 48, 64, 96, 128]);
        assert_eq!(decode_batches(600)[10..], [160, 192, 224, 256, 512, 600]);
        let text =
            "graph @g<T in 1..8192, B in 1..32>(%x: f32[T], %y: f32[B]) {\n  %z = silu %x : f32[T]\n  return %z\n}\n";
        let graph = ir::text::parse(text, &ir::ops::OpSet::standard()).expect("a graph").graph;
        let names = |max_num_tokens| {
            let limits =
                Limits { max_batch_size: 1, max_input_len: 1, max_seq_len: 1, max_num_tokens, max_logit_rows: 1 };
            let most = |program: &ProgramShape| program.symbols.iter().map(|decl| decl.max).collect::<Vec<_>>();
            let programs = ProgramShape::all(&graph, &limits);
            programs[1..].iter().map(|program| (program.name.clone(), most(program))).collect::<Vec<_>>()
        };
        let of = |size: u64, tokens: u64| (format!("mixed@{size}"), vec![tokens, 32]);
        assert_eq!(names(512), [of(512, 8192)]);
        assert_eq!(names(8192), [of(256, 256), of(512, 512), of(1024, 1024), of(8192, 8192)]);
    }
}
