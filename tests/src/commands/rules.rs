//! `// test: rules FILE`: the effect of the rules of a file next to the case on its graph, in order; checked like
//! passes.

use std::sync::Arc;

use ir::text::ParseError;

use super::pass;
use crate::{Case, Command, Outcome, Suite};

pub struct Rules;

impl Command for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn run(&self, suite: &Suite, case: &Case) -> Result<Outcome, String> {
        let [file] = case.args.as_slice() else { return Err("expected a file after `// test: rules`".to_owned()) };
        let path = case.path.with_file_name(file);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        let list = |errors: Vec<ParseError>| errors.iter().map(ParseError::to_string).collect::<Vec<_>>().join("\n");
        let rules = passes::rules::parse(&text, suite.driver.ops()).map_err(list)?;
        let passes = rules.into_iter().map(|rule| -> Arc<dyn passes::Pass> { Arc::new(rule) });
        pass::difference_of(suite, case, passes.collect())
    }
}
