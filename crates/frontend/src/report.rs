//! Why a checkpoint is not imported: everything that is wrong, collected before anything is said.

/// Why a checkpoint was not imported. Each message names the file, the tensor or key, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Files are missing or damaged, or contradict each other.
    #[error("{}", plan::listed(.0, "\n"))]
    BadInput(Vec<String>),
    /// The checkpoint asks for something that smelt does not do. Damage found beside it is listed as well.
    #[error("{}", plan::listed(.0, "\n"))]
    Unsupported(Vec<String>),
    /// An option contradicts the checkpoint.
    #[error("{}", .0.join("\n"))]
    Options(Vec<String>),
    /// A sound checkpoint became an ill-typed graph: a bug of this crate.
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
    /// Something is missing, damaged or contradictory. What is so for many tensors is said once.
    pub fn bad_input(&mut self, message: String) {
        if !self.bad_input.contains(&message) {
            self.bad_input.push(message);
        }
    }

    /// Something is sound, but not done here.
    pub fn unsupported(&mut self, message: String) {
        if !self.unsupported.contains(&message) {
            self.unsupported.push(message);
        }
    }

    /// An option asks for what this checkpoint does not allow.
    pub fn option(&mut self, message: String) {
        self.options.push(message);
    }

    /// Something looks odd, but changes nothing.
    pub fn warning(&mut self, message: String) {
        self.warnings.push(message);
    }

    /// How many things are wrong so far.
    pub fn problems(&self) -> usize {
        self.bad_input.len() + self.unsupported.len() + self.options.len()
    }

    /// The warnings, where nothing is wrong. `Unsupported` wins: repairing files would not help.
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

    /// Ends the reading: something wrong has been reported, so there is no value to go on with.
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
