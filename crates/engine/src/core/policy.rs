//! How many tokens a sequence is expected to generate when it is admitted.

use std::fmt;
use std::str::FromStr;

/// What a sequence reserves of the KV cache, beside its prompt, when it is admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// What nine of ten finished sequences generated.
    #[default]
    Likely,
    /// All that it may generate: nothing that was started is ever computed again.
    GuaranteedNoEvict,
    /// Nothing.
    MaxUtilization,
}

impl Policy {
    /// All policies.
    pub const ALL: [Policy; 3] = [Policy::Likely, Policy::GuaranteedNoEvict, Policy::MaxUtilization];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Likely => "likely",
            Policy::GuaranteedNoEvict => "guaranteed-no-evict",
            Policy::MaxUtilization => "max-utilization",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Policy, String> {
        let names = Policy::ALL.map(Policy::name).join(", ");
        let found = Policy::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| format!("unknown policy `{text}`, expected one of {names}"))
    }
}

/// Expected until enough sequences have finished.
const FIRST_GUESS: u32 = 256;
const ENOUGH: u32 = 32;
/// Powers of 1.2 up to 2^30.
const BUCKETS: usize = 116;

/// How many tokens finished sequences generated: a histogram in powers of 1.2.
#[derive(Clone, Debug)]
pub(crate) struct Lengths {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Lengths {
    pub fn new() -> Lengths {
        Lengths { counts: [0; BUCKETS], total: 0 }
    }

    /// Counts a finished sequence.
    pub fn count(&mut self, generated: u32) {
        let bucket = f64::from(generated.max(1)).log(1.2).ceil() as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.total += 1;
    }

    /// What nine of ten generated, at most.
    pub fn likely(&self) -> u32 {
        if self.total < ENOUGH {
            return FIRST_GUESS;
        }
        let mut counted = 0;
        let reached = |count: &u32| {
            counted += count;
            u64::from(counted) * 10 >= u64::from(self.total) * 9
        };
        let bucket = self.counts.iter().position(reached).unwrap_or(BUCKETS - 1);
        1.2f64.powi(bucket as i32).ceil() as u32
    }

    /// What a sequence that may generate `most` tokens reserves.
    pub fn expected(&self, policy: Policy, most: u32) -> u32 {
        match policy {
            Policy::Likely => self.likely().min(most),
            Policy::GuaranteedNoEvict => most,
            Policy::MaxUtilization => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_generate_less() {
        let mut lengths = Lengths::new();
        assert_eq!(lengths.expected(Policy::Likely, 1000), 256);
        assert_eq!(lengths.expected(Policy::Likely, 10), 10);
        (0..90).for_each(|_| lengths.count(10));
        (0..10).for_each(|_| lengths.count(1000));
        let likely = lengths.expected(Policy::Likely, 1000);
        assert!((10..=12).contains(&likely), "{likely}");
        (0..10).for_each(|_| lengths.count(1000));
        let likely = lengths.expected(Policy::Likely, 2000);
        assert!((1000..=1200).contains(&likely), "{likely}");
        lengths.count(u32::MAX);
        assert_eq!(lengths.expected(Policy::GuaranteedNoEvict, 7), 7);
        assert_eq!(lengths.expected(Policy::MaxUtilization, 7), 0);
    }

    #[test]
    fn names_are_read() {
        for policy in Policy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("x".parse::<Policy>().unwrap_err().matches("likely").count(), 1);
    }
}
