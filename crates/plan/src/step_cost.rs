//! The work of a step of a program: the sum over its launches.

use crate::work::context;
use crate::{Cost, DimError, Program, ProgramKind, Step, Symbol, SymbolValues, upper_bounds};

/// The largest step of a program over sequences with this many cached tokens. A symbol of the program's own called
/// `context` keeps its meaning.
pub fn full_step(program: &Program, tokens: u64) -> SymbolValues {
    let mut values = upper_bounds(&program.symbols);
    values.entry(context()).or_insert(tokens);
    values
}

/// The useful work of one step of a program over sequences with these cached tokens, of which each is one of the
/// step's. `symbols` are the sizes of the step. Sequences of a decode program that are none of these are padding: what
/// is computed for them does not count, except the bytes of their activations, which are negligible.
pub fn step_cost(program: &Program, symbols: &SymbolValues, contexts: &[u64]) -> Result<Cost, DimError> {
    let places = Symbol::new("B").and_then(|symbol| symbols.get(&symbol).copied());
    let places = places.unwrap_or(contexts.len() as u64).max(1);
    let total = contexts.iter().map(|context| u128::from(*context)).sum::<u128>();
    // work is linear in the context: two of them give all, and the mean need not be a whole number
    let low = u64::try_from(total / u128::from(places)).unwrap_or(u64::MAX);
    let at = |tokens: u64| {
        let mut values = symbols.clone();
        values.entry(context()).or_insert(tokens);
        let costs = program.steps.iter().map(|Step::Launch(launch)| launch.work.eval(&values));
        costs.sum::<Result<Cost, DimError>>()
    };
    let (none, below, above) = (at(0)?, at(low)?, at(low.saturating_add(1))?);
    let rest = total % u128::from(places);
    let between = |below: u64, above: u64| {
        let part = u128::from(above.saturating_sub(below)) * rest / u128::from(places);
        below.saturating_add(part as u64)
    };
    let used = match program.kind {
        ProgramKind::Decode => places.min(contexts.len() as u64),
        ProgramKind::Mixed => places,
    };
    let padding = u128::from(none.flops) * u128::from(places - used) / u128::from(places);
    Ok(Cost {
        flops: between(below.flops, above.flops).saturating_sub(padding as u64),
        read: between(below.read, above.read),
        written: between(below.written, above.written),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arg, Dim, Launch, SymbolDecl, Work};

    fn program(kind: ProgramKind, batch: u64) -> (Program, SymbolValues) {
        let dim = |text: &str| text.parse::<Dim>().unwrap();
        let launch = |work: Work| {
            Step::Launch(Launch {
                kernel: 0,
                site: "y".to_owned(),
                inputs: vec![Arg::Weight(0)],
                outputs: Vec::new(),
                maps: Vec::new(),
                scalars: Vec::new(),
                grid: 1.into(),
                ir: String::new(),
                work,
            })
        };
        let symbols = [("T", batch), ("B", batch)];
        let symbols = symbols.map(|(name, value)| (Symbol::new(name).unwrap(), value));
        let decls = symbols.iter().map(|(symbol, value)| SymbolDecl { symbol: symbol.clone(), min: 1, max: *value });
        let program = Program {
            name: "p".to_owned(),
            kind,
            symbols: decls.collect(),
            buffers: Vec::new(),
            arena_bytes: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            steps: vec![
                launch(Work { flops: dim("100 * T"), read: dim("5000 + 2 * T"), written: dim("3 * T") }),
                launch(Work { flops: dim("4 * T * context"), read: dim("32 * B * context"), written: dim("T") }),
            ],
        };
        (program, symbols.into())
    }

    #[test]
    fn a_step_costs_what_its_contexts_do() {
        let (program, symbols) = program(ProgramKind::Decode, 4);
        let cost = |contexts: &[u64]| step_cost(&program, &symbols, contexts).unwrap();
        assert_eq!(cost(&[10; 4]), Cost { flops: 400 + 160, read: 5008 + 1280, written: 16 });
        // the mean of 43 over 4 is no whole number
        assert_eq!(cost(&[10, 11, 11, 11]), Cost { flops: 400 + 172, read: 5008 + 32 * 43, written: 16 });
        // one place is padding: its products are for nobody
        assert_eq!(cost(&[10, 11, 11]), Cost { flops: 300 + 4 * 32, read: 5008 + 32 * 32, written: 16 });
        assert_eq!(cost(&[]), Cost { flops: 0, read: 5008, written: 16 });
    }

    #[test]
    fn prompts_are_not_padded() {
        let (program, mut symbols) = program(ProgramKind::Mixed, 16);
        symbols.insert(Symbol::new("B").unwrap(), 1);
        let cost = step_cost(&program, &symbols, &[8]).unwrap();
        assert_eq!(cost, Cost { flops: 1600 + 4 * 16 * 8, read: 5032 + 32 * 8, written: 64 });
        let huge = step_cost(&program, &symbols, &[u64::MAX]);
        assert!(huge.is_err() || huge.is_ok_and(|cost| cost.read > 1 << 60));
    }
}
