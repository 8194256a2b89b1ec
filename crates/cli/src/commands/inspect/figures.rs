//! Human-readable figures: three digits and a unit.

/// `3.65 ms`, `12.3 µs`.
pub fn time(seconds: f64) -> String {
    let (unit, name) = match seconds {
        s if s >= 1.0 => (1.0, "s"),
        s if s >= 1e-3 => (1e-3, "ms"),
        _ => (1e-6, "µs"),
    };
    format!("{} {name}", digits(seconds / unit))
}

/// `1.23 G`, `17`.
pub fn count(number: f64) -> String {
    quantity(number, "").trim_end().to_owned()
}

/// `1.23 GFLOP`, `17 FLOP`.
pub fn quantity(number: f64, unit: &str) -> String {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match prefixes.into_iter().find(|(size, _)| number >= *size) {
        Some((size, prefix)) => format!("{} {prefix}{unit}", digits(number / size)),
        None if number.fract() == 0.0 => format!("{number} {unit}"),
        None => format!("{} {unit}", digits(number)),
    }
}

/// `1 token`, `2 tokens`, and `2 launches` of `launch|es`.
pub fn number_of(number: u64, name: &str) -> String {
    let (one, more) = name.split_once('|').unwrap_or((name, "s"));
    format!("{number} {one}{}", if number == 1 { "" } else { more })
}

/// `part` as a percentage of `whole`: `37.2`.
pub fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

fn digits(number: f64) -> String {
    match number {
        n if n >= 99.95 => format!("{n:.0}"),
        n if n >= 9.995 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!([3.6512e-3, 1.2e-7, 12.34].map(time), ["3.65 ms", "0.12 µs", "12.3 s"]);
        assert_eq!(
            [0.0, 17.0, 999.0, 1234.0, 9.999e9, 205.6].map(count),
            ["0", "17", "999", "1.23 k", "10.0 G", "206"]
        );
        assert_eq!([17.0, 1234.0].map(|n| quantity(n, "FLOP")), ["17 FLOP", "1.23 kFLOP"]);
        assert_eq!([(1, "token"), (2, "launch|es")].map(|(n, name)| number_of(n, name)), ["1 token", "2 launches"]);
        assert_eq!((percent(1.0, 8.0), percent(1.0, 0.0)), (12.5, 0.0));
    }
}
