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

impl ProgramShape {
    /// `decode@1, 2, 4, …` up to the largest batch, with all symbols equal to the batch; `mixed@T`, which keeps the
    /// symbols.
    pub fn all(graph: &Graph, limits: &Limits) -> Vec<ProgramShape> {
        let mut all = Vec::new();
        let largest = u64::from(limits.max_batch_size);
        let mut batch = 1;
        while batch < largest * 2 {
            let size = batch.min(largest);
            let fixed = |decl: &SymbolDecl| SymbolDecl { symbol: decl.symbol.clone(), min: size, max: size };
            all.push(ProgramShape {
                name: format!("decode@{size}"),
                kind: ProgramKind::Decode,
                replacements: graph.symbols().iter().map(|decl| (decl.symbol.clone(), Dim::from(size))).collect(),
                symbols: graph.symbols().iter().map(fixed).collect(),
            });
            batch *= 2;
        }
        all.push(ProgramShape {
            name: format!("mixed@{}", limits.max_num_tokens),
            kind: ProgramKind::Mixed,
            replacements: BTreeMap::new(),
            symbols: graph.symbols().to_vec(),
        });
        all
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
