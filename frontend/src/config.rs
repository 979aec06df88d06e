//! The checked configuration: typed, complete, with the place of every key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use neoxc_config::{
    Activation, Attention, Capacity, Cooldown, Decay, LearningRate, Moe, Norm, NormPlace,
    PipePartition, PipeSchedule, Precision, QkNorm, RopeScaling, Router, Run, Start,
};

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Architecture.
    pub model: Model,
    /// Optimizer and learning rate.
    pub optimizer: Optimizer,
    /// Batches, iterations, data, checkpoints.
    pub run: Run,
    /// Ranks along each axis.
    #[serde(default)]
    pub parallel: Parallel,
    /// Key → (file, line, column), for locations in the IR.
    pub places: BTreeMap<String, (String, u32, u32)>,
}

/// Ranks along the axes of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parallel {
    /// Ranks that divide the layers: pipeline stages.
    pub pipe: usize,
    /// The order of micro-batches in the pipeline.
    pub schedule: PipeSchedule,
    /// Chunks of layers on each stage: more than one where the schedule is interleaved.
    #[serde(default = "one")]
    pub chunks: usize,
    /// How stages divide the layers.
    #[serde(default)]
    pub partition: PipePartition,
    /// Ranks that divide a step's micro-batches.
    pub data: usize,
    /// Ranks that divide the experts, and each micro-batch among them.
    #[serde(default = "one")]
    pub expert: usize,
    /// Whether the tensor ranks divide each expert.
    #[serde(default)]
    pub expert_tensor: bool,
    /// Ranks that divide the sequence.
    pub context: usize,
    /// Ranks that divide each layer.
    pub tensor: usize,
    /// Whether they divide the residual stream along the sequence as well.
    pub sequence_parallel: bool,
    /// ZeRO stage: what is divided over the data ranks beside the micro-batches.
    pub zero_stage: u8,
}

fn one() -> usize {
    1
}

impl Parallel {
    /// Ranks with a micro-batch of their own: the data-parallel size of GPT-NeoX.
    pub fn copies(self) -> usize {
        self.data * self.expert
    }

    /// All ranks.
    pub fn ranks(self) -> usize {
        self.pipe * self.copies() * self.context * self.tensor
    }
}

impl Default for Parallel {
    fn default() -> Self {
        Self {
            pipe: 1,
            schedule: PipeSchedule::OneForwardOneBackward,
            chunks: 1,
            partition: PipePartition::Layers,
            data: 1,
            expert: 1,
            expert_tensor: false,
            context: 1,
            tensor: 1,
            sequence_parallel: false,
            zero_stage: 0,
        }
    }
}

/// Architecture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The family that it is said to be of.
    #[serde(default)]
    pub model_family: Option<String>,
    /// Layers.
    pub num_layers: usize,
    /// Width.
    pub hidden_size: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Key-value heads, if not one for each head.
    #[serde(default)]
    pub num_kv_heads: Option<usize>,
    /// Dims of a head, if not its share of the width.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Norms of queries and keys.
    #[serde(default)]
    pub qk_norm: QkNorm,
    /// Attention scores are divided by the root of this, if not of the dims of a head.
    #[serde(default)]
    pub query_pre_attn_scalar: Option<usize>,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Tokens per sequence.
    pub seq_length: usize,
    /// Rows of a learned position table.
    pub max_position_embeddings: usize,
    /// Ids of the tokenizer, if it is known.
    pub vocab_size: Option<usize>,
    /// Rows of the embedding.
    pub padded_vocab_size: usize,
    /// `rotary`, `learned`, `sinusoidal` or `none`.
    pub pos_emb: String,
    /// Rotary dims per head.
    pub rotary_dims: usize,
    /// Frequency base.
    pub rotary_emb_base: f64,
    /// How their frequencies are scaled, if they are.
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    /// The frequency base in layers with a sliding window, if it is another.
    #[serde(default)]
    pub sliding_rotary_emb_base: Option<f64>,
    /// Added to positions before a learned table is read.
    #[serde(default)]
    pub opt_pos_emb_offset: usize,
    /// What the token embedding is multiplied by.
    #[serde(default = "unscaled")]
    pub embedding_scale: f64,
    /// The kind of norms.
    #[serde(default)]
    pub norm: Norm,
    /// Norms multiply by 1 plus their weights.
    #[serde(default)]
    pub zero_centred_norms: bool,
    /// Where layers have norms.
    #[serde(default)]
    pub norm_place: NormPlace,
    /// Epsilon of norms.
    pub layernorm_epsilon: f64,
    /// Parallel residual.
    pub gpt_j_residual: bool,
    /// One norm for both branches.
    pub gpt_j_tied: bool,
    /// The activation of the MLP.
    #[serde(default)]
    pub activation: Activation,
    /// tanh form of GELU.
    pub gelu_tanh: bool,
    /// Biases in norms.
    pub use_bias_in_norms: bool,
    /// Biases in attention projections.
    pub use_bias_in_attn_linear: bool,
    /// A bias in the projection of attention's output, if that differs from the others.
    #[serde(default)]
    pub use_bias_in_attn_dense: Option<bool>,
    /// Biases in the MLP.
    pub use_bias_in_mlp: bool,
    /// Layers with experts in the place of the MLP.
    #[serde(default)]
    pub moe: Option<Moe>,
    /// What each layer attends to; those that the list does not reach are global.
    #[serde(default)]
    pub attention: Vec<Attention>,
    /// How many tokens before its own a token sees in layers with a sliding window.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// The head is the embedding.
    pub tied: bool,
    /// What weights start as.
    #[serde(deserialize_with = "neoxc_config::start::written")]
    pub init_std: Start,
    /// The same of weights that write into the residual stream.
    #[serde(deserialize_with = "neoxc_config::start::written")]
    pub output_init_std: Start,
    /// The part of the embedding and of both branches' outputs that training drops.
    #[serde(default)]
    pub hidden_dropout: f64,
    /// The part of the attention weights that training drops.
    #[serde(default)]
    pub attention_dropout: f64,
    /// Layers per recomputed group; none keeps activations.
    pub checkpoint: Option<usize>,
    /// What is multiplied and kept for the backward pass.
    #[serde(default)]
    pub precision: Precision,
}

fn unscaled() -> f64 {
    1.0
}

impl Model {
    /// Key-value heads.
    pub fn key_heads(&self) -> usize {
        self.num_kv_heads.unwrap_or(self.num_attention_heads)
    }

    /// Dims of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Whether the projection of attention's output has a bias.
    pub fn bias_of_output(&self) -> bool {
        self.use_bias_in_attn_dense.unwrap_or(self.use_bias_in_attn_linear)
    }

    /// Layers in the shortest run that all layers repeat: the body of the loop over layers.
    pub fn period(&self) -> usize {
        let experts = |layer: usize| self.moe.is_some_and(|m| m.in_layer(layer));
        let attention = |layer: usize| self.attention.get(layer).copied().unwrap_or_default();
        let kinds: Vec<_> = (0..self.num_layers).map(|l| (attention(l), experts(l))).collect();
        neoxc_ir::period::shortest(&kinds).max(1)
    }
}

/// The optimizer and its learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// The learning rate.
    #[serde(flatten)]
    pub rate: LearningRate,
    /// Its name.
    #[serde(default = "first_optimizer")]
    pub kind: String,
    /// Its hyper-parameters by name; those that are left out have its defaults.
    #[serde(default)]
    pub hypers: BTreeMap<String, f64>,
    /// Parameters with a learning rate or a weight decay of their own; the first group that has a parameter counts.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Parameters that are not trained: patterns for logical names, in which `*` stands for any characters.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Global gradient-norm limit; 0 means none.
    pub gradient_clipping: f64,
}

/// Parameters that are trained with other numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Which: a pattern for logical names, in which `*` stands for any characters.
    pub params: String,
    /// What the learning rate is multiplied by.
    pub lr_scale: f64,
    /// The weight decay of those that decay; none for the optimizer's.
    pub weight_decay: Option<f64>,
}

impl Group {
    /// Whether it has the parameter called `name`.
    pub fn has(&self, name: &str) -> bool {
        fits(&self.params, name)
    }
}

/// Whether a parameter's name fits a pattern, in which `*` stands for any characters.
pub fn fits(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = &parts[..] else { return pattern == name };
    let Some(rest) = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    let find = |rest: &str, part: &&str| Some(rest[rest.find(*part)? + part.len()..].to_string());
    middle.iter().try_fold(rest.to_string(), |rest, part| find(&rest, part)).is_some()
}

/// The name of the optimizer in configurations that were written when there was one.
fn first_optimizer() -> String {
    neoxc_optimizers::ALL[0].name().into()
}

impl Optimizer {
    /// The optimizer with its settings; none where it is not known, or not with these.
    pub fn settings(&self) -> Option<neoxc_optimizers::Settings> {
        let start = neoxc_optimizers::Settings::new(neoxc_optimizers::find(&self.kind)?);
        self.hypers.iter().try_fold(start, |settings, (name, x)| settings.with(name, *x))
    }
}
