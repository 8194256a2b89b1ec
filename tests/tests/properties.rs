//! Properties for every size, tested on random ones: normal forms and round trips.

use std::collections::BTreeMap;

use plan::{Dim, Symbol, SymbolValues};
use proptest::prelude::*;

fn symbol(name: &str) -> Symbol {
    Symbol::new(name).expect("a letter is a symbol")
}

/// A size as a tree, before any normal form.
#[derive(Clone, Debug)]
enum Size {
    Const(u64),
    Symbol(&'static str),
    Add(Box<Size>, Box<Size>),
    Mul(Box<Size>, Box<Size>),
    CeilDiv(Box<Size>, u64),
    Max(Box<Size>, Box<Size>),
}

impl Size {
    fn dim(&self) -> Dim {
        match self {
            Size::Const(value) => Dim::from(*value),
            Size::Symbol(name) => Dim::symbol(&symbol(name)),
            Size::Add(a, b) => a.dim() + b.dim(),
            Size::Mul(a, b) => a.dim() * b.dim(),
            Size::CeilDiv(a, divisor) => a.dim().ceil_div(*divisor),
            Size::Max(a, b) => a.dim().at_least(&b.dim()),
        }
    }

    fn eval(&self, values: &SymbolValues) -> u64 {
        match self {
            Size::Const(value) => *value,
            Size::Symbol(name) => values[&symbol(name)],
            Size::Add(a, b) => a.eval(values) + b.eval(values),
            Size::Mul(a, b) => a.eval(values) * b.eval(values),
            Size::CeilDiv(a, divisor) => a.eval(values).div_ceil(*divisor),
            Size::Max(a, b) => a.eval(values).max(b.eval(values)),
        }
    }
}

fn sizes() -> impl Strategy<Value = Size> {
    let leaf =
        prop_oneof![(0..5u64).prop_map(Size::Const), prop::sample::select(&["T", "B", "R"]).prop_map(Size::Symbol)];
    leaf.prop_recursive(4, 16, 2, |inner| {
        let pair = || (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        prop_oneof![
            pair().prop_map(|(a, b)| Size::Add(a, b)),
            pair().prop_map(|(a, b)| Size::Mul(a, b)),
            (inner.clone().prop_map(Box::new), 1..9u64).prop_map(|(a, divisor)| Size::CeilDiv(a, divisor)),
            pair().prop_map(|(a, b)| Size::Max(a, b)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sizes_mean_what_they_were_built_from(size in sizes(), t in 0..40u64, b in 0..40u64, r in 0..40u64) {
        let values = SymbolValues::from([(symbol("T"), t), (symbol("B"), b), (symbol("R"), r)]);
        let (dim, expected) = (size.dim(), size.eval(&values));
        prop_assert_eq!(dim.eval(&values), Ok(expected));
        let constants: BTreeMap<Symbol, Dim> = values.into_iter().map(|(name, value)| (name, value.into())).collect();
        prop_assert_eq!(dim.substitute(&constants), Dim::from(expected));
    }

    #[test]
    fn sizes_read_back_equal(size in sizes()) {
        let dim = size.dim();
        prop_assert_eq!(dim.to_string().parse::<Dim>(), Ok(dim));
    }

    #[test]
    fn sizes_have_one_normal_form(a in sizes(), b in sizes(), c in sizes()) {
        let (a, b, c) = (a.dim(), b.dim(), c.dim());
        prop_assert_eq!(a.clone() + b.clone(), b.clone() + a.clone());
        prop_assert_eq!(a.clone() * b.clone(), b.clone() * a.clone());
        prop_assert_eq!(a.at_least(&b), b.at_least(&a));
        prop_assert_eq!((a.clone() + b.clone()) + c.clone(), a.clone() + (b.clone() + c.clone()));
        prop_assert_eq!((a.clone() * b.clone()) * c.clone(), a.clone() * (b.clone() * c.clone()));
        prop_assert_eq!(a.at_least(&b).at_least(&c), a.at_least(&b.at_least(&c)));
        prop_assert_eq!(a.clone() * (b.clone() + c.clone()), a.clone() * b + a * c);
    }
}
