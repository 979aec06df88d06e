//! What a model file needs to know: sizes, switches, initial distributions, and the YAML line
//! that each came from.

use std::collections::BTreeMap;

pub use neoxc_config::{
    Attention, Capacity, Moe, Norm, NormPlace, QkNorm, RopeScaling, Router, Start,
};
use neoxc_ir::{DType, Loc, period};

use crate::blocks::activations::Activation;

/// How positions enter the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Rotary embedding of the first `dims` elements of each head, with frequency base `base`.
    Rotary {
        /// Rotary dims per head, even.
        dims: usize,
        /// Frequency base.
        base: f64,
        /// How frequencies are scaled, if they are.
        scaling: Option<RopeScaling>,
    },
    /// A learned table of `rows` positions added to the token embedding.
    Learned {
        /// Rows of the table (`max_position_embeddings`).
        rows: usize,
    },
    /// Sines and cosines added to the token embedding.
    Sinusoidal,
    /// None.
    None,
}

/// What a layer is made of: layers of one kind have the same parameters and compute the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerKind {
    /// What it attends to.
    pub attention: Attention,
    /// Whether it has experts in the place of the MLP.
    pub experts: bool,
}

/// A GPT-NeoX architecture and one micro-batch's shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Arch {
    /// The family that the model is said to be of; its features decide where none is named.
    pub family: Option<String>,
    /// Sequences per micro-batch, of all groups together.
    pub batch: usize,
    /// Groups of as many sequences: what one rank has of a micro-batch that several ranks divide. The
    /// loss is the mean of the groups' means, so a group is to the model what a micro-batch is.
    pub groups: usize,
    /// Micro-batches per optimizer step on one rank.
    pub grad_accum: usize,
    /// Tokens per sequence.
    pub seq: usize,
    /// Layers.
    pub layers: usize,
    /// What each layer attends to; those that the list does not reach are global.
    pub attention: Vec<Attention>,
    /// How many tokens before its own a token sees in layers with a sliding window.
    pub window: Option<usize>,
    /// Model width.
    pub embed: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key-value heads, which divide the heads; none where every head has its own.
    pub kv_heads: Option<usize>,
    /// Width of a head; `heads * head_dim` need not be `embed`.
    pub head_dim: usize,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Attention scores are divided by the root of this; none for the width of a head.
    pub query_scalar: Option<usize>,
    /// Width of the MLP.
    pub ffn: usize,
    /// Rows of the embedding, padding included.
    pub vocab: usize,
    /// Positions.
    pub positions: Positions,
    /// The frequency base of rotary positions in layers with a sliding window, whose frequencies are not scaled; none where
    /// they rotate as the others do.
    pub sliding_base: Option<f64>,
    /// Added to positions before a learned table is read.
    pub position_offset: usize,
    /// What the token embedding is multiplied by.
    pub embedding_scale: f64,
    /// The longest sequence that the model is said to be for.
    pub max_positions: usize,
    /// The kind of norms.
    pub norm: Norm,
    /// Where layers have norms.
    pub norm_place: NormPlace,
    /// Epsilon of norms.
    pub eps: f64,
    /// A norm multiplies by 1 plus its weight, which starts at 0.
    pub zero_centred: bool,
    /// `x + attn(ln1(x)) + mlp(ln2(x))` instead of the sequential form.
    pub parallel_residual: bool,
    /// One norm for both branches of the parallel form.
    pub shared_norm: bool,
    /// The activation of MLPs and of experts.
    pub activation: Activation,
    /// The MLP's activation is that of a gate.
    pub gated: bool,
    /// Layer norms have biases.
    pub norm_bias: bool,
    /// The projections to queries, keys and values have biases.
    pub attention_bias: bool,
    /// The projection of attention's output has a bias.
    pub out_bias: bool,
    /// MLP projections have biases.
    pub mlp_bias: bool,
    /// Layers with experts in the place of the MLP.
    pub moe: Option<Moe>,
    /// The head is the embedding.
    pub tied: bool,
    /// What weights start as.
    pub init_std: Start,
    /// What weights that write into the residual stream start as.
    pub output_init_std: Start,
    /// Layers per activation-checkpointing group; `None` keeps all activations.
    pub checkpoint: Option<usize>,
    /// The dtype of matmul operands and saved activations: f32, bf16 or f16.
    pub precision: DType,
    /// The part of the embedding and of both branches' outputs that training drops.
    pub hidden_dropout: f64,
    /// The part of the attention weights that training drops.
    pub attention_dropout: f64,
    /// Seed of what is dropped.
    pub seed: u32,
    /// Configuration key → place.
    pub locs: BTreeMap<String, Loc>,
}

impl Arch {
    /// Key-value heads.
    pub fn key_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Query heads that share a key-value head.
    pub fn queries(&self) -> usize {
        self.heads / self.key_heads().max(1)
    }

    /// What attention scores are multiplied by.
    pub fn score_scale(&self) -> f64 {
        1.0 / (self.query_scalar.unwrap_or(self.head_dim) as f64).sqrt()
    }

    /// How many tokens before its own a token sees in a layer of the kind `kind`, if they are limited.
    pub fn window_of(&self, kind: LayerKind) -> Option<usize> {
        self.window.filter(|_| kind.attention == Attention::Sliding)
    }

    /// Whether layers have a sliding window.
    pub fn has_windows(&self) -> bool {
        self.kinds().iter().any(|kind| self.window_of(*kind).is_some())
    }

    /// Width of an expert.
    pub fn expert_ffn(&self) -> usize {
        self.moe.and_then(|m| m.ffn).unwrap_or(self.ffn)
    }

    /// The kind of each layer.
    pub fn kinds(&self) -> Vec<LayerKind> {
        let kind = |layer: usize| LayerKind {
            attention: self.attention.get(layer).copied().unwrap_or_default(),
            experts: self.moe.is_some_and(|m| m.in_layer(layer)),
        };
        (0..self.layers).map(kind).collect()
    }

    /// The kinds of the layers in the body of the loop over layers: the shortest run that all layers repeat.
    pub fn period(&self) -> Vec<LayerKind> {
        let mut kinds = self.kinds();
        kinds.truncate(period::shortest(&kinds));
        kinds
    }

    /// The place of `key`; where the key has a default, the place of the number of layers, which
    /// every configuration gives.
    pub fn loc(&self, key: &str) -> Loc {
        let at = |k: &str| self.locs.get(k).cloned();
        at(key).or_else(|| at("num_layers")).unwrap_or_default()
    }
}
