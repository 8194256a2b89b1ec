//! What an evaluation measures.

use serde::Serialize;

/// The loss of a model on a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Mean negative log-likelihood per scored token, in nats.
    pub nll: f64,
    /// Number of scored tokens.
    pub tokens: usize,
}

impl Score {
    /// From the sum over some tokens.
    pub(super) fn new(sum: f64, tokens: usize) -> Score {
        let nll = sum / tokens as f64;
        Score { perplexity: nll.exp(), nll, tokens }
    }
}

/// The difference of a plan from another, the reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The loss of the reference on the text.
    pub reference: Score,
    /// The loss of the plan.
    pub plan: Score,
    /// Mean `KL(reference || plan)` over all positions, in nats.
    pub kl: f64,
    /// Top-1 agreement: share of positions at which both predict the same token.
    pub top1: f64,
    /// Other outputs that both plans have, in the order of the reference.
    pub values: Vec<ValueError>,
}

/// The difference of a value of a plan from the same value of the reference, over all tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueError {
    /// Its name in the graph.
    pub name: String,
    /// `||reference - plan|| / ||reference||`.
    pub error: f64,
    /// Cosine of the angle between both.
    pub cosine: f64,
}

/// A layer's contribution to the error of the residual stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerError {
    /// The half of a layer, such as `layers.3.mlp`; or `logits`, which includes lm_head.
    pub layer: String,
    /// Relative error of the residual stream after it.
    pub error: f64,
    /// Cosine of the angle between the residual streams after it.
    pub cosine: f64,
    /// Growth of the relative error over the layer.
    pub growth: f64,
}
