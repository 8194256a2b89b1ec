//! The `Pass` trait, and the macro for passes that consist of rules.

use std::borrow::Cow;
use std::fmt;

use ir::{DerivedWeights, Graph, RewriteError};

use crate::calibration::{Activations, Calibration};

/// A transformation of a graph.
pub trait Pass: fmt::Debug + Send + Sync {
    /// Its name on the command line and in messages, derived from the type: `fuse-swiglu`.
    fn name(&self) -> Cow<'static, str> {
        Cow::Owned(kebab_case(std::any::type_name::<Self>()))
    }

    /// A one-sentence description, for lists of passes.
    fn summary(&self) -> &'static str {
        "a user's pass"
    }

    /// Whether it cannot be disabled: later stages need it, or an option asked for its effect on values.
    fn required(&self) -> bool {
        self.numerics().on_purpose()
    }

    /// Whether it needs activation statistics: it then runs only with a calibration.
    fn needs_calibration(&self) -> bool {
        false
    }

    /// How values before and after are compared.
    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    /// Transforms the graph.
    fn run(&self, graph: &mut Graph, ctx: &PassContext<'_>) -> Result<Changed, PassError>;
}

/// The effect of a pass on the values of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Numerics {
    /// None.
    Exact,
    /// Rounding only: fewer roundings to 16 bits, or sums in another order.
    Rounding,
    /// Fewer bits of weights, activations or the KV cache: what one layer computes differs by at most this share, the
    /// root mean square of the difference over that of the values. Bounds are one and a half times the share of normally
    /// distributed values, or more.
    Quantizing {
        /// The share.
        percent: u32,
    },
    /// Intended: the pass changes what the graph computes. Values are not compared.
    Different,
}

impl Numerics {
    /// Whether the pass changes values by more than rounding: it runs only if asked for.
    pub fn on_purpose(self) -> bool {
        matches!(self, Numerics::Quantizing { .. } | Numerics::Different)
    }
}

/// Whether a pass changed the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The graph is unchanged.
    No,
    /// The graph is changed.
    Yes,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Changed {
        if changed { Changed::Yes } else { Changed::No }
    }
}

/// Inputs of a pass besides the graph.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct PassContext<'a> {
    /// The bytes of constants, for passes that need them, and storage for those that passes compute.
    pub weights: &'a DerivedWeights<'a>,
    /// Activation statistics, if the model was calibrated.
    pub calibration: Option<&'a Calibration>,
    /// Sampled activations.
    pub activations: Option<&'a dyn Activations>,
}

impl<'a> PassContext<'a> {
    /// A context without a calibration.
    pub fn new(weights: &'a DerivedWeights<'a>) -> PassContext<'a> {
        PassContext { weights, calibration: None, activations: None }
    }

    /// The same with a calibration.
    pub fn calibrated(self, calibration: &'a Calibration, activations: &'a dyn Activations) -> PassContext<'a> {
        PassContext { calibration: Some(calibration), activations: Some(activations), ..self }
    }
}

/// Why a pass failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// A rewrite rule misbehaved: a bug.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// A weight or the calibration is not suitable for the pass: not a bug.
    #[error("{0}")]
    Input(String),
    /// The pass does not support this.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else: a bug.
    #[error("{0}")]
    Other(String),
}

/// `a::b::FuseSwiglu<T>` to `fuse-swiglu`.
fn kebab_case(path: &str) -> String {
    let path = path.split('<').next().unwrap_or(path);
    let name = path.rsplit("::").next().unwrap_or(path);
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Declares a pass that applies rewrite rules until none applies. Its documentation is also its summary. `, required`
/// after the numerics makes it impossible to disable.
///
/// ```text
/// rewrite_pass! {
///     /// `a rule → its result`
///     pub struct NameOfThePass(Numerics::Rounding) { name_of_the_rule }
/// }
/// ```
#[macro_export]
macro_rules! rewrite_pass {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident($($about:tt)+) { $($rule:ident),+ $(,)? }
    ) => {
        $crate::graph_pass! {
            $(#[doc = $doc])+
            pub struct $name($($about)+) = |graph, _| {
                let rules = [$($crate::ir::Rule { name: stringify!($rule), apply: &$rule }),+];
                Ok(($crate::ir::rewrite(graph, &rules)? > 0).into())
            };
        }
    };
}

/// Declares a pass that is a function of graph and context, like [`rewrite_pass!`].
#[doc(hidden)]
#[macro_export]
macro_rules! graph_pass {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident($numerics:expr $(, $required:ident)?) = |$graph:ident, $ctx:pat_param| $run:expr;
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name;

        impl $crate::Pass for $name {
            fn summary(&self) -> &'static str {
                concat!($($doc),+).trim_start()
            }

            $(fn $required(&self) -> bool {
                true
            })?

            fn numerics(&self) -> $crate::Numerics {
                $numerics
            }

            fn run(
                &self,
                $graph: &mut $crate::ir::Graph,
                $ctx: &$crate::PassContext<'_>,
            ) -> Result<$crate::Changed, $crate::PassError> {
                $run
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::kebab_case;

    #[test]
    fn names_come_from_types() {
        assert_eq!(kebab_case("passes::fusion::FuseAddRmsNorm"), "fuse-add-rms-norm");
        assert_eq!(kebab_case("Wrap<passes::A>"), "wrap");
    }
}
