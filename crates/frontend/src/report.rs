//! Why a checkpoint is not imported: all problems, collected before any is reported.

/// Why a checkpoint was not imported. Each message names the file, the tensor or key, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Files are missing or damaged, or contradict each other.
    #[error("{}", plan::listed(.0, "\n"))]
    BadInput(Vec<String>),
    /// The checkpoint needs something that smelt does not support. Damage found besides is listed as well.
    #[error("{}", plan::listed(.0, "\n"))]
    Unsupported(Vec<String>),
    /// An option contradicts the checkpoint.
    #[error("{}", .0.join("\n"))]
    Options(Vec<String>),
    /// A valid checkpoint became an ill-typed graph: a bug of this crate.
    #[error("the importer built an ill-typed graph: {0}")]
    Graph(#[from] ir::GraphError),
}

/// What is found while a checkpoint is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    bad_input: Vec<String>,
    unsupported: Vec<String>,
    options: Vec<String>,
    warnings: Vec<String>,
}

impl Report {
    /// Something is missing, damaged or contradictory. Problems of many tensors are reported once.
    pub fn bad_input(&mut self, message: String) {
        if !self.bad_input.contains(&message) {
            self.bad_input.push(message);
        }
    }

    /// Something is valid, but not supported.
    pub fn unsupported(&mut self, message: String) {
        if !self.unsupported.contains(&message) {
            self.unsupported.push(message);
        }
    }

    /// An option is incompatible with this checkpoint.
    pub fn option(&mut self, message: String) {
        self.options.push(message);
    }

    /// Something looks wrong, but has no effect.
    pub fn warning(&mut self, message: String) {
        self.warnings.push(message);
    }

    /// The number of errors so far.
    pub fn problems(&self) -> usize {
        self.bad_input.len() + self.unsupported.len() + self.options.len()
    }

    /// The warnings, if there are no errors. `Unsupported` takes precedence: repairing files would not help.
    pub fn finish(self) -> Result<Vec<String>, ImportError> {
        let Report { mut bad_input, mut unsupported, options, warnings } = self;
        if !unsupported.is_empty() {
            unsupported.extend(bad_input);
            unsupported.extend(options);
            return Err(ImportError::Unsupported(unsupported));
        }
        if !bad_input.is_empty() {
            bad_input.extend(options);
            return Err(ImportError::BadInput(bad_input));
        }
        if options.is_empty() { Ok(warnings) } else { Err(ImportError::Options(options)) }
    }

    /// Ends the reading after an error was reported.
    pub fn into_error(self) -> ImportError {
        match self.finish() {
            Err(error) => error,
            Ok(_) => ImportError::BadInput(vec!["the checkpoint could not be read".to_owned()]),
        }
    }
}

/// Names in a message: the first few of them, and how many are left.
pub(crate) fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{}`", name.escape_debug())).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
