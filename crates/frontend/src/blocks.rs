//! The parts of a decoder layer in which architectures differ.

/// The norm before attention, before the MLP, and at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// RMSNorm, with a weight.
    Rms,
    /// LayerNorm, with a weight and a bias.
    Layer,
}

/// The MLP, with the names of its projection modules in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// `down(f(gate(x)) * up(x))`.
    Gated {
        /// The module of `gate`.
        gate: &'static str,
        /// The module of `up`.
        up: &'static str,
        /// The module of `down`.
        down: &'static str,
    },
    /// `down(f(up(x)))`.
    Plain {
        /// The module of `up`.
        up: &'static str,
        /// The module of `down`.
        down: &'static str,
    },
}

/// The activation of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The exact GELU.
    Gelu,
    /// GELU with the tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Values of `hidden_act`: transformers has several names for some functions.
    pub(crate) const NAMES: [(&'static str, Activation); 7] = [
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("relu", Activation::Relu),
    ];

    /// The name of the op.
    pub(crate) fn op_name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Relu => "relu",
        }
    }
}
