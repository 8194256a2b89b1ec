//! Scalar functions: the one table that op semantics, the CPU and the printer of CUDA C share.
//! `kernels/common/scalar.cuh` has a function of the same name for each.

/// Maximum number of arguments.
pub(crate) const MAX_ARITY: usize = 3;

macro_rules! scalar_fns {
    ($($(#[doc = $doc:literal])+ $function:ident = $name:literal ($($arg:ident),+) => $value:expr;)+) => {
        /// A scalar function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ScalarFn {
            $($(#[doc = $doc])+ $function,)+
        }

        impl ScalarFn {
            /// All functions.
            pub const ALL: &'static [ScalarFn] = &[$(ScalarFn::$function),+];

            /// The name in text, and in CUDA C.
            pub fn name(self) -> &'static str {
                match self { $(ScalarFn::$function => $name),+ }
            }

            /// Number of arguments.
            pub fn arity(self) -> usize {
                match self { $(ScalarFn::$function => [$(stringify!($arg)),+].len()),+ }
            }

            /// Applies the function to each element of a block. Every argument that it takes is as long as `out`.
            pub(crate) fn apply(self, args: [&[f32]; MAX_ARITY], out: &mut [f32]) {
                match self {
                    $(ScalarFn::$function => {
                        let mut args = args.into_iter();
                        $(let $arg = &args.next().unwrap_or_default()[..out.len()];)+
                        for (index, out) in out.iter_mut().enumerate() {
                            $(let $arg = $arg[index];)+
                            *out = $value;
                        }
                    })+
                }
            }
        }
    };
}

scalar_fns! {
    /// `a + b`
    Add = "add" (a, b) => a + b;
    /// `a * b`
    Mul = "mul" (a, b) => a * b;
    /// `x / (1 + exp(-x))`
    Silu = "silu" (x) => x / (1.0 + (-x).exp());
    /// `1 / (1 + exp(-x))`
    Sigmoid = "sigmoid" (x) => 1.0 / (1.0 + (-x).exp());
    /// The hyperbolic tangent.
    Tanh = "tanh" (x) => x.tanh();
    /// `max(x, 0)`
    Relu = "relu" (x) => x.max(0.0);
    /// `x * P(X <= x)` of a normal distribution. (GELU, arXiv 1606.08415.)
    Gelu = "gelu" (x) => 0.5 * x * erfc(-x * std::f32::consts::FRAC_1_SQRT_2);
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`, the tanh approximation of most GELU models; computed
    /// with a sigmoid, which is equivalent and costs one exponential.
    GeluTanh = "gelu_tanh" (x) => x / (1.0 + (-2.0 * 0.797_884_6 * (x + 0.044_715 * x * x * x)).exp());
    /// `cap * tanh(x / cap)`
    Softcap = "softcap" (x, cap) => cap * (x / cap).tanh();
    /// `min(max(x, low), high)`
    Clamp = "clamp" (x, low, high) => x.max(low).min(high);
}

impl ScalarFn {
    /// The function of this name.
    pub fn find(name: &str) -> Option<ScalarFn> {
        ScalarFn::ALL.iter().copied().find(|function| function.name() == name)
    }
}

/// `1 - erf(x)`, with a relative error of at most 1.2e-7: a Chebyshev fit, also where it is small. (Numerical Recipes,
/// `erfc`.)
fn erfc(x: f32) -> f32 {
    const FIT: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let x = f64::from(x);
    let t = 1.0 / (1.0 + 0.5 * x.abs());
    let exponent = FIT.iter().rev().fold(0.0, |sum, coefficient| sum * t + coefficient);
    let tail = t * (exponent - x * x).exp();
    (if x < 0.0 { 2.0 - tail } else { tail }) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(function: ScalarFn, args: [f32; MAX_ARITY]) -> f32 {
        let args = args.map(|arg| [arg]);
        let mut out = [0.0];
        function.apply([&args[0], &args[1], &args[2]], &mut out);
        out[0]
    }

    #[test]
    fn values_are_those_of_tables() {
        let near = |function, x: f32, expected: f32| {
            let found = of(function, [x, 2.0, 3.0]);
            assert!((found - expected).abs() <= 4e-7 * expected.abs().max(1e-3), "{function:?}({x}) = {found}");
        };
        near(ScalarFn::Gelu, 1.0, 0.841_344_7);
        near(ScalarFn::Gelu, -1.0, -0.158_655_26);
        near(ScalarFn::Gelu, -4.0, -1.266_849_7e-4);
        near(ScalarFn::GeluTanh, 1.0, 0.841_192);
        near(ScalarFn::GeluTanh, -3.0, -3.637_392e-3);
        near(ScalarFn::Silu, 1.0, 0.731_058_6);
        near(ScalarFn::Sigmoid, -2.0, 0.119_202_92);
        near(ScalarFn::Softcap, 1.0, 2.0 * 0.462_117_16);
        near(ScalarFn::Clamp, 1.0, 2.0);
        near(ScalarFn::Clamp, 9.0, 3.0);
        near(ScalarFn::Relu, -1.0, 0.0);
    }

    #[test]
    fn functions_are_found_by_name_and_have_few_arguments() {
        for function in ScalarFn::ALL {
            assert_eq!(ScalarFn::find(function.name()), Some(*function));
            assert!((1..=MAX_ARITY).contains(&function.arity()));
        }
        assert_eq!(ScalarFn::find("exp"), None);
    }
}
