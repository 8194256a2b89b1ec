//! Properties of quantization for any values: the rounding error, and that quantized values are fixed points.

use std::collections::HashMap;

use ir::{DType, Environment, HostTensor, KvState, NoWeights, OpSet, evaluate, scale_of, text};
use plan::SymbolValues;
use proptest::prelude::*;

const ROWS: usize = 3;
const COLS: usize = 48;

/// Quantized values of a matrix with computed scales, dequantized values, and those quantized again with the same
/// scales; one scale per `block` columns.
struct Found {
    codes: Vec<f32>,
    scales: Vec<f32>,
    read_back: Vec<f32>,
    again: Vec<f32>,
}

fn quantize(values: &[f32], to: DType, block: usize) -> Found {
    let scales = COLS.div_ceil(block);
    let graph = format!(
        "graph @g(%x: f32[{ROWS}, {COLS}]) {{
           %codes, %scale = quantize_blocks %x {{to = {to}, cols = {block}}} : {to}[{ROWS}, {COLS}], f32[{ROWS}, {scales}]
           %read = dequantize %codes, %scale {{to = f32}} : f32[{ROWS}, {COLS}]
           %again = quantize %read, %scale {{to = {to}}} : {to}[{ROWS}, {COLS}]
           return %codes, %scale, %read, %again
         }}"
    );
    let graph = text::parse(&graph, &OpSet::standard()).unwrap().graph;
    let inputs = HashMap::from([("x".to_owned(), HostTensor::f32([ROWS, COLS], values.to_vec()))]);
    let env = Environment { weights: &NoWeights, symbols: SymbolValues::default(), inputs };
    let mut outputs = evaluate(&graph, &env, &mut KvState::new(graph.kv())).unwrap().into_iter();
    let mut next = || outputs.next().unwrap().floats().to_vec();
    Found { codes: next(), scales: next(), read_back: next(), again: next() }
}

/// Numbers of all magnitudes, of both signs, including zeros.
fn matrix() -> impl Strategy<Value = Vec<f32>> {
    let number = prop_oneof![
        1 => Just(0.0_f32),
        6 => -4.0..4.0_f32,
        2 => (-30..30_i32, -1.0..1.0_f32).prop_map(|(exponent, number)| number * 2.0_f32.powi(exponent)),
    ];
    prop::collection::vec(number, ROWS * COLS)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn codes_are_near_and_stay_what_they_are(
        values in matrix(),
        to in prop::sample::select(&[DType::I8, DType::F8E4M3]),
        block in prop::sample::select(&[16_usize, 32, COLS]),
    ) {
        let found = quantize(&values, to, block);
        let largest = to.largest_code().unwrap();
        for (row, numbers) in values.chunks(COLS).enumerate() {
            for (col, number) in numbers.iter().enumerate() {
                let (at, first) = (row * COLS + col, col / block * block);
                let scale = found.scales[row * COLS.div_ceil(block) + col / block];
                let neighbours = &numbers[first..COLS.min(first + block)];
                let absmax = neighbours.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
                prop_assert_eq!(scale, scale_of(absmax, to));
                prop_assert!(found.codes[at].abs() <= largest && to.round(found.codes[at]) == found.codes[at]);
                prop_assert_eq!(found.codes[at], found.again[at], "quantizing dequantized values changes nothing");
                // half a step; E4M3 has steps of 1/8 of the power of two below a number, and of 2^-9 at the least
                let step = match to {
                    DType::I8 => scale,
                    _ => (2.0_f32.powf((number / scale).abs().max(2.0_f32.powi(-6)).log2().floor() - 3.0)) * scale,
                };
                let off = (found.read_back[at] - number).abs();
                prop_assert!(off <= 0.5 * step * 1.0001, "{number} became {}, scale {scale}", found.read_back[at]);
            }
        }
    }

    #[test]
    fn signs_and_powers_of_two_change_no_code_but_its_sign(
        values in matrix(),
        to in prop::sample::select(&[DType::I8, DType::F8E4M3]),
        exponent in -20..20_i32,
    ) {
        let found = quantize(&values, to, COLS);
        let negated: Vec<f32> = values.iter().map(|value| -value).collect();
        let mirrored: Vec<f32> = quantize(&negated, to, COLS).codes.iter().map(|code| 0.0 - code).collect();
        prop_assert_eq!(&mirrored, &found.codes.iter().map(|code| code + 0.0).collect::<Vec<_>>());
        let scaled: Vec<f32> = values.iter().map(|value| value * 2.0_f32.powi(exponent)).collect();
        let scaled = quantize(&scaled, to, COLS);
        prop_assert_eq!(&scaled.codes, &found.codes);
    }
}

#[test]
fn what_is_no_number_is_said_and_what_is_too_large_saturates() {
    let mut values = vec![1.0; ROWS * COLS];
    (values[0], values[COLS]) = (f32::NAN, f32::INFINITY);
    let found = quantize(&values, DType::F8E4M3, COLS);
    assert!(found.read_back[..COLS].iter().all(|value| value.is_nan()), "a row with a NaN is one of NaN");
    assert!(found.read_back[COLS].is_nan() || found.read_back[COLS].is_infinite());
    assert!(found.read_back[2 * COLS..].iter().all(|value| (value - 1.0).abs() < 1e-6));
    for (to, smallest) in [(DType::I8, -128.0), (DType::I4, -8.0), (DType::F8E4M3, -448.0)] {
        assert_eq!((to.round(-1e9), to.round(1e9)), (smallest, to.largest_code().unwrap()));
        assert_eq!(to.smallest_code(), Some(smallest));
    }
}
