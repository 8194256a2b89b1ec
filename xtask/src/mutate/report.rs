//! The result of a run: counts per kind, and findings, with similar ones shown once.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::judge::{Fault, Outcome};
use super::mutant::Mutant;

/// Number of similar findings that are kept.
const EXAMPLES: usize = 2;
/// Characters of a message that are shown.
const SHOWN: usize = 160;
/// Characters of a command that are shown.
const LINE: usize = 300;
/// Bytes of output that are kept.
const KEPT: usize = 1 << 16;

/// The result of a run.
pub struct Report {
    seed: u64,
    /// The command that reproduces a mutant, without its index.
    again: String,
    kinds: BTreeMap<&'static str, Counts>,
    pub findings: Vec<Finding>,
    pub seconds: u64,
}

/// The result of a kind.
#[derive(Default)]
struct Counts {
    mutants: u64,
    /// By exit code, or by the signal that ended it.
    ends: BTreeMap<String, u64>,
    /// Milliseconds of the slowest, and its index.
    slowest: (u64, u64),
    /// MiB of the largest, and its index.
    largest: (u64, u64),
}

/// A mutant that was handled wrongly. Its files can be regenerated.
pub struct Finding {
    pub index: u64,
    pub kind: &'static str,
    /// The command, as one would type it.
    line: String,
    pub outcome: Outcome,
}

impl Finding {
    /// The common part of similar findings: kind and faults, and for bugs the message without its numbers and names.
    fn key(&self) -> (&'static str, Vec<String>, String) {
        let faults = &self.outcome.faults;
        let bug = faults.iter().any(|fault| matches!(fault, Fault::ExitCode(_) | Fault::Signal(_) | Fault::Panic));
        let message = if bug { skeleton(&self.message()) } else { String::new() };
        let mut names: Vec<String> = faults.iter().map(Fault::name).collect();
        names.dedup();
        (self.kind, names, message)
    }

    /// The error line of the message.
    fn message(&self) -> String {
        let text = String::from_utf8_lossy(&self.outcome.stderr).into_owned();
        let telling =
            |line: &&str| line.contains("panicked at") || line.starts_with("  × ") || line.starts_with("error:");
        let line = text.lines().find(telling).or(text.lines().next()).unwrap_or_default();
        let short: String = line.trim().chars().take(SHOWN).collect();
        short.escape_debug().to_string()
    }
}

impl Report {
    pub fn new(seed: u64, again: String) -> Report {
        Report { seed, again, kinds: BTreeMap::new(), findings: Vec::new(), seconds: 0 }
    }

    /// Counts a run, and keeps it if it has faults.
    pub fn add(&mut self, index: u64, mutant: &Mutant, outcome: Outcome) {
        let counts = self.kinds.entry(mutant.kind).or_default();
        counts.mutants += 1;
        let end = outcome.code.map_or("signal".to_owned(), |code| code.to_string());
        *counts.ends.entry(end).or_default() += 1;
        counts.slowest = counts.slowest.max((outcome.time.as_millis() as u64, index));
        counts.largest = counts.largest.max((outcome.peak >> 20, index));
        if !outcome.faults.is_empty() {
            let line = mutant.line().chars().take(LINE).collect();
            let outcome = Outcome { stdout: start(&outcome.stdout), stderr: start(&outcome.stderr), ..outcome };
            self.findings.push(Finding { index, kind: mutant.kind, line, outcome });
        }
    }

    pub fn count(&self) -> u64 {
        self.kinds.values().map(|counts| counts.mutants).sum()
    }

    /// Similar findings, in order of their first.
    fn groups(&self) -> Vec<Vec<&Finding>> {
        let mut groups: Vec<Vec<&Finding>> = Vec::new();
        for finding in &self.findings {
            match groups.iter_mut().find(|group| group[0].key() == finding.key()) {
                Some(group) => group.push(finding),
                None => groups.push(vec![finding]),
            }
        }
        groups
    }

    /// Some of each group.
    pub fn examples(&self) -> impl Iterator<Item = &Finding> {
        self.groups().into_iter().flat_map(|group| group.into_iter().take(EXAMPLES))
    }

    /// The findings, similar ones once.
    pub fn wrong(&self) -> String {
        let group = |group: Vec<&Finding>| {
            let first = group[0];
            let faults: Vec<String> = first.outcome.faults.iter().map(Fault::to_string).collect();
            let (count, message) = (group.len(), first.message());
            let head = format!("wrong: {} ({count} mutants): {}\n  {message}\n", first.kind, faults.join(", "));
            format!("{head}  {}\n  {} --only {}\n", first.line, self.again, first.index)
        };
        self.groups().into_iter().map(group).collect()
    }

    /// The counts and findings as JSON. Only the seconds depend on the machine.
    pub fn json(&self) -> String {
        let kind = |(name, counts): (&&str, &Counts)| {
            let findings = self.findings.iter().filter(|finding| finding.kind == *name).count();
            let Counts { mutants, ends, slowest, largest } = counts;
            let value = json!({"mutants": mutants, "exit_codes": ends, "findings": findings,
                "slowest_ms": slowest.0, "largest_mib": largest.0});
            ((*name).to_owned(), value)
        };
        let finding = |group: Vec<&Finding>| {
            let first = group[0];
            let faults: Vec<String> = first.outcome.faults.iter().map(Fault::to_string).collect();
            json!({"kind": first.kind, "mutants": group.len(), "first": first.index, "faults": faults,
                "message": first.message()})
        };
        let document = json!({
            "schema_version": 1,
            "seed": self.seed,
            "mutants": self.count(),
            "seconds": self.seconds,
            "wrong": self.findings.len(),
            "kinds": self.kinds.iter().map(kind).collect::<Map<String, Value>>(),
            "findings": self.groups().into_iter().map(finding).collect::<Vec<_>>(),
        });
        format!("{document:#}\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<18} {:>7} {:>16} {:>16}  exit codes", "kind", "mutants", "slowest", "largest")?;
        for (name, counts) in &self.kinds {
            let ends: Vec<String> = counts.ends.iter().map(|(end, count)| format!("{end}: {count}")).collect();
            let slowest = format!("{} ms #{}", counts.slowest.0, counts.slowest.1);
            let largest = format!("{} MiB #{}", counts.largest.0, counts.largest.1);
            writeln!(f, "{name:<18} {:>7} {slowest:>16} {largest:>16}  {}", counts.mutants, ends.join(", "))?;
        }
        f.write_str(&self.wrong())?;
        writeln!(f, "{} mutants in {} s, {} wrong", self.count(), self.seconds, self.findings.len())
    }
}

fn start(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(KEPT)].to_vec()
}

/// A message with runs of digits as `0`, and quoted text removed.
fn skeleton(message: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for character in message.chars() {
        match character {
            '`' | '"' => quoted = !quoted,
            _ if quoted => {}
            '0'..='9' if out.ends_with('0') => {}
            '0'..='9' => out.push('0'),
            other => out.push(other),
        }
    }
    out
}
