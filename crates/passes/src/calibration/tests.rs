//! Cases computed by hand, and properties of merging, clipping and the text.

use ir::DType;
use proptest::collection::vec;
use proptest::prelude::*;

use super::clip::mean_square_error;
use super::*;

/// `0, 1, ..., 1023` and one outlier.
fn ramp_and_outlier() -> TensorStats {
    let mut values: Vec<f32> = (0..1023).map(|value| value as f32).collect();
    values.push(8000.0);
    TensorStats::of(1, &values)
}

#[test]
fn a_histogram_doubles_its_range_as_values_ask() {
    let mut histogram = Histogram::default();
    histogram.add(0.75);
    assert_eq!((histogram.exponent(), histogram.bins()[1536]), (0, 1));
    histogram.add(-1.0);
    // 1 is not below 2^0: the range is 0..2 now, in bins of 2/2048
    assert_eq!((histogram.exponent(), histogram.bins()[768], histogram.bins()[1024]), (1, 1, 1));
    histogram.add(0.0);
    assert_eq!((histogram.total(), histogram.used()), (3, 1025));
}

#[test]
fn statistics_of_two_rows_by_hand() {
    let stats = TensorStats::of(3, &[1.0, -2.0, 0.0, 3.0, 1.0, 0.0]);
    assert_eq!((stats.tokens, stats.min, stats.max, stats.nan), (2, -2.0, 3.0, 0));
    assert_eq!(stats.channel_absmax, [3.0, 2.0, 0.0]);
    assert_eq!(stats.channel_mean_square, [5.0, 2.5, 0.0]);
    assert_eq!(stats.histogram.total(), 6);
    // the largest of each row, 2 and 3, in a range of 0..4
    assert_eq!((stats.token_absmax.bins()[1024], stats.token_absmax.bins()[1536]), (1, 1));
}

#[test]
fn what_is_no_number_is_counted() {
    let stats = TensorStats::of(2, &[f32::NAN, 1.0, f32::INFINITY, 2.0]);
    assert_eq!((stats.nan, stats.tokens, stats.max), (2, 2, 2.0));
}

#[test]
fn clips_by_hand() {
    let stats = ramp_and_outlier();
    assert_eq!(stats.clip(ClipMethod::MinMax, DType::I8), 8000.0);
    // 512 of 1024 values are in 0..512: bins are 4 wide
    assert_eq!(stats.clip(ClipMethod::Percentile(50.0), DType::I8), 512.0);
    assert_eq!(stats.clip(ClipMethod::Percentile(100.0), DType::I8), 8000.0);
    // dense values near 0 are not resolved if one value in 1001 takes most of the range
    let mut dense: Vec<f32> = (0..1000).map(|value| 1000.0 * (value as f32 / 1000.0).powi(4)).collect();
    dense.push(8000.0);
    assert!(TensorStats::of(1, &dense).clip(ClipMethod::Entropy, DType::I8) < 2000.0);
    // floating-point values are as dense below an outlier as without it
    assert!(stats.clip(ClipMethod::Mse, DType::F8E4M3) > 4000.0);
}

#[test]
fn a_mean_square_error_by_hand() {
    // two values in bins around 0.5 and 1.0, in bins of 2/2048, at centres of 0.50048828125 and 1.00048828125
    let stats = TensorStats::of(1, &[0.5, 1.0]);
    let centre = 0.5 + 1.0 / 2048.0;
    // steps of 1/127: 0.5 is nearest to 64 of them; 1 is clipped
    let errors: [f64; 2] = [centre - 64.0 / 127.0, 1.0 / 2048.0];
    let expected = errors.iter().map(|error| error * error).sum::<f64>() / 2.0;
    let found = mean_square_error(&stats.histogram, 1.0, DType::I8);
    assert!((found - expected).abs() < 1e-15, "{found} {expected}");
}

#[test]
fn constant_zeros_have_a_clip_of_zero() {
    let stats = TensorStats::of(2, &[0.0; 8]);
    for method in ClipMethod::ALL {
        assert_eq!(stats.clip(method, DType::I8), 0.0, "{method}");
    }
}

#[test]
fn methods_are_spelled_as_they_are_read() {
    for method in ClipMethod::ALL {
        assert_eq!(method.to_string().parse(), Ok(method));
    }
    assert_eq!("percentile".parse(), Ok(ClipMethod::Percentile(99.99)));
    assert!("percentile:101".parse::<ClipMethod>().is_err());
    assert!("percentile:nan".parse::<ClipMethod>().is_err());
}

#[test]
fn another_model_or_other_tensors_are_refused() {
    let a = Calibration::new("aa", 8, ClipMethod::MinMax);
    let mut b = Calibration::new("bb", 8, ClipMethod::MinMax);
    assert!(matches!(b.merge(&a), Err(CalibrationError::Model { .. })));
    let mut c = a.clone();
    c.tensors.insert("x".to_owned(), TensorStats::of(1, &[1.0]));
    assert_eq!(c.merge(&a), Err(CalibrationError::Merge("only one of them has tensor `x`".to_owned())));
    let mut d = a.clone();
    d.tensors.insert("x".to_owned(), TensorStats::of(2, &[1.0, 2.0]));
    assert_eq!(c.merge(&d), Err(CalibrationError::Merge("`x`: expected 1 channels, found 2".to_owned())));
}

#[test]
fn damaged_texts_are_refused() {
    let mut calibration = Calibration::new("aa", 8, ClipMethod::Entropy);
    calibration.tensors.insert("x".to_owned(), TensorStats::of(1, &[1.0, 2.0]));
    let text = calibration.print();
    for (from, to, reason) in [
        ("\"schema_version\": 1", "\"schema_version\": 9", "schema_version 9"),
        ("\"min\": 1.0", "\"min\": 1e99", "a number as `min`"),
        ("\"max\": 2.0", "\"max\": 3.0", "agree"),
        ("\"tokens\": 2", "\"tokens\": 3", "each of them in `token_absmax`"),
        ("[2.0]", "[]", "as many squares as channels"),
        ("[2.0]", "[-2.0]", "at least 0"),
        ("\"nan\": 0", "\"nah\": 0", "a field `nan`"),
        ("\"method\": \"entropy\"", "\"method\": \"guess\"", "expected minmax"),
    ] {
        let error = Calibration::parse(&text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    // any size of magnitude whose square is a normal number, and many zeros
    let any = any::<f32>().prop_map(|x| if (1e-17..1e18).contains(&x.abs()) { x } else { 0.0 });
    vec(prop_oneof![Just(0.0_f32), -8.0_f32..8.0, any], 4..80).prop_map(|mut values| {
        values.truncate(values.len() / 4 * 4);
        values
    })
}

proptest! {
    #[test]
    fn merged_is_what_both_saw(a in values(), b in values()) {
        let mut merged = TensorStats::of(4, &a);
        merged.merge(&TensorStats::of(4, &b)).unwrap();
        let both = TensorStats::of(4, &[a, b].concat());
        for (found, expected) in merged.channel_mean_square.iter().zip(&both.channel_mean_square) {
            prop_assert!((found - expected).abs() <= 1e-6 * expected, "{} {}", found, expected);
        }
        merged.channel_mean_square = both.channel_mean_square.clone();
        prop_assert_eq!(merged, both);
    }

    #[test]
    fn text_reads_back_the_same(values in values()) {
        let mut calibration = Calibration::new("00ff", 512, ClipMethod::Percentile(99.5));
        calibration.tensors.insert("a \"b\"".to_owned(), TensorStats::of(4, &values));
        calibration.tensors.insert("c".to_owned(), TensorStats::of(2, &values));
        let text = calibration.print();
        let read = Calibration::parse(&text).unwrap();
        prop_assert_eq!(read.print(), text);
        prop_assert_eq!(read, calibration);
    }

    #[test]
    fn clips_keep_their_promises(values in values(), low in 1.0..100.0_f64, more in 0.0..50.0_f64) {
        let stats = TensorStats::of(4, &values);
        let (absmax, high) = (stats.absmax(), (low + more).min(100.0));
        for to in [DType::I8, DType::F8E4M3] {
            let clip = |method| stats.clip(method, to);
            prop_assert_eq!(clip(ClipMethod::MinMax), absmax);
            prop_assert!(clip(ClipMethod::Percentile(low)) <= clip(ClipMethod::Percentile(high)));
            prop_assert!(ClipMethod::ALL.iter().all(|method| clip(*method) <= absmax));
            let error = |clip: f32| mean_square_error(&stats.histogram, clip.into(), to);
            prop_assert!(error(clip(ClipMethod::Mse)) <= error(absmax));
        }
    }
}
