//! `// test: roundtrip`: a graph prints as the text it was parsed from, without comments. Runs on every case whose text
//! parses.

use crate::{Case, Command, Outcome, Suite};

pub struct Roundtrip;

impl Command for Roundtrip {
    fn name(&self) -> &'static str {
        "roundtrip"
    }

    fn takes(&self, suite: &Suite, case: &Case) -> bool {
        case.command == self.name() || case.parsed(suite.driver.ops()).is_ok()
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let (text, printed) = (case.body(), ir::text::print(&case.parsed(suite.driver.ops())?.graph));
        if printed == text {
            return Ok(Outcome::Passed);
        }
        let diff = similar::TextDiff::from_lines(&text, &printed);
        Err(format!("does not print as it was written:\n{}", diff.unified_diff().header("written", "printed")))
    }
}
