//! Layers with experts.

use serde::{Deserialize, Serialize};

/// How a router chooses experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Router {
    /// By probability.
    TopK,
    /// In training so that experts get equal shares, otherwise by probability.
    Sinkhorn,
}

crate::words!(Router: TopK = "topk", Sinkhorn = "sinkhorn");

/// Slots of experts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Slots in training, in shares of an even distribution.
    pub train_factor: f64,
    /// The same in evaluation and generation.
    pub eval_factor: f64,
    /// The fewest slots.
    pub minimum: usize,
}

/// Mixture-of-experts layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Moe {
    /// Experts of a layer.
    pub experts: usize,
    /// Layers 0, `interval`, 2 · `interval`, … have experts; it divides the number of layers.
    pub interval: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// How they are chosen.
    pub router: Router,
    /// Slots of experts; without, nothing is dropped.
    pub capacity: Option<Capacity>,
    /// Weight of the load-balancing loss of each layer.
    pub loss_coeff: f64,
    /// Rounds of Sinkhorn's iteration, as GPT-NeoX's main branch makes them; without, until it has settled.
    #[serde(default)]
    pub sinkhorn_rounds: Option<usize>,
    /// The weights of a token's choices are divided by their sum.
    #[serde(default)]
    pub normalize: bool,
    /// Width of an expert, if not that of the MLP of other layers.
    #[serde(default)]
    pub ffn: Option<usize>,
}

impl Moe {
    /// Whether a layer has experts in the place of the MLP.
    pub fn in_layer(&self, layer: usize) -> bool {
        layer.is_multiple_of(self.interval.max(1))
    }

    /// Whether layers compute something else in training than in evaluation.
    pub fn trains_apart(&self) -> bool {
        let factors = self.capacity.is_some_and(|c| c.train_factor != c.eval_factor);
        factors || self.router == Router::Sinkhorn || self.loss_coeff > 0.0
    }
}
