//! `smelt opt`

use std::path::PathBuf;

use clap::Args;
use smelt::{Driver, Error};

use super::compile::with_repro;
use super::list::List;
use crate::failure::Failure;
use crate::output::print;

/// Runs passes on the text of a graph and prints what comes out.
#[derive(Debug, Args)]
pub struct Opt {
    /// Passes in order, with commas; without any, the standard pipeline.
    #[arg(long, value_name = "PASSES", value_delimiter = ',')]
    pass: Vec<String>,
    /// The graph's text; `-` is stdin.
    #[arg(value_name = "FILE.ir", required_unless_present = "list")]
    file: Option<PathBuf>,
    #[command(flatten)]
    list: List,
}

impl Opt {
    pub fn run(self, driver: &Driver) -> Result<(), Failure> {
        if self.list.wanted() {
            return self.list.run(driver, false);
        }
        let path = self.file.unwrap_or_default();
        let text = match path.as_os_str() == "-" {
            true => std::io::read_to_string(std::io::stdin()),
            false => std::fs::read_to_string(&path),
        };
        let text = text.map_err(|error| Error::Io { path: path.clone(), error })?;
        let result = driver.optimize(&text, &self.pass);
        print(&result.map_err(|error| match error {
            Error::BadInput(message) => Failure::bad_input(format!("{}: {message}", path.display())),
            error => with_repro(error, None),
        })?)
    }
}
