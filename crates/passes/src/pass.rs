//! What a pass is, and the macro for those that are nothing but rules.

use std::borrow::Cow;
use std::fmt;

use ir::{Graph, MadeWeights, RewriteError};

use crate::calibration::{Activations, Calibration};

/// A transformation of a graph.
pub trait Pass: fmt::Debug + Send + Sync {
    /// The name by which command lines and messages know it, made from the type's: `fuse-swiglu`.
    fn name(&self) -> Cow<'static, str> {
        Cow::Owned(kebab_case(std::any::type_name::<Self>()))
    }

    /// What it does, in a sentence, for lists of passes.
    fn summary(&self) -> &'static str {
        "plugged in"
    }

    /// Whether it cannot be switched off: later stages need it, or it changes what the graph computes, as was asked for.
    fn required(&self) -> bool {
        self.numerics() == Numerics::Different
    }

    /// Whether it must know activations: it then runs in contexts with a calibration alone.
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

/// How the values of a graph may differ before and after a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Numerics {
    /// Not at all.
    Exact,
    /// By rounding: a value is no longer rounded to its dtype on the way, or sums are taken in another order.
    Rounding,
    /// By design: the pass changes what the graph computes. Nothing holds it to the values before.
    Different,
}

/// Whether a pass did anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The graph is as it was.
    No,
    /// It is not.
    Yes,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Changed {
        if changed { Changed::Yes } else { Changed::No }
    }
}

/// What a pass may look at beside the graph.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct PassContext<'a> {
    /// The bytes of constants, for passes that must see them, and the place for those that passes make.
    pub weights: &'a MadeWeights<'a>,
    /// Statistics of activations, where the model was calibrated.
    pub calibration: Option<&'a Calibration>,
    /// Activations themselves.
    pub activations: Option<&'a dyn Activations>,
}

impl<'a> PassContext<'a> {
    /// A context without a calibration.
    pub fn new(weights: &'a MadeWeights<'a>) -> PassContext<'a> {
        PassContext { weights, calibration: None, activations: None }
    }

    /// The same with a calibration.
    pub fn calibrated(self, calibration: &'a Calibration, activations: &'a dyn Activations) -> PassContext<'a> {
        PassContext { calibration: Some(calibration), activations: Some(activations), ..self }
    }
}

/// Why a pass failed: a bug of the pass, not of its input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// A rewriting rule misbehaved.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// A weight or the calibration is not fit for the pass: nobody's bug.
    #[error("{0}")]
    Input(String),
    /// The pass does not do this.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else.
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

/// Declares a pass that applies rewriting rules until none applies. `, required` behind the numerics keeps it from
/// being switched off.
///
/// ```text
/// rewrite_pass! {
///     /// `silu(g) * u → silu_mul(g, u)`
///     pub struct FuseSiluMul(Numerics::Rounding) { silu_mul }
/// }
/// ```
#[macro_export]
macro_rules! rewrite_pass {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident($numerics:expr $(, $required:ident)?) { $($rule:ident),+ $(,)? }
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
                graph: &mut $crate::ir::Graph,
                _: &$crate::PassContext<'_>,
            ) -> Result<$crate::Changed, $crate::PassError> {
                let rules = [$($crate::ir::Rule { name: stringify!($rule), apply: &$rule }),+];
                Ok(($crate::ir::rewrite(graph, &rules)? > 0).into())
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
