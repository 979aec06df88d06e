//! PaLM (Chowdhery et al. 2022, arXiv:2204.02311): a parallel residual with one norm, one key that all queries share, a gate
//! with SiLU, the embedding as head, and no biases, those of layer norms included.
//!
//! Nobody has published its weights: names are Llama's, and Hugging Face has no class of it.

use super::experts;
use super::hugging_face::{OWN_SCALE, TWO_BASES, absent};
use super::llama::NamedAsLlama;
use crate::arch::{Arch, Norm, NormPlace, Positions, QkNorm};
use crate::blocks::activations::Activation;

/// The family.
pub const PALM: NamedAsLlama =
    NamedAsLlama { name: "palm", format: None, lacks, experts: &experts::GPT_NEOX };

fn lacks(a: &Arch) -> Vec<&'static str> {
    let whole = matches!(a.positions, Positions::Rotary { dims, .. } if dims == a.head_dim);
    let scaled = matches!(a.positions, Positions::Rotary { scaling: Some(_), .. });
    let biases = a.attention_bias || a.out_bias || a.mlp_bias || a.norm_bias;
    absent(&[
        (!whole, "positions but rotary ones of whole heads"),
        (scaled, "scaled rotary positions"),
        (a.norm != Norm::LayerNorm, "norms but layer norms"),
        (a.zero_centred, "norms with 1 + weight"),
        (!a.gated || a.activation != Activation::Silu, "activations but swiglu"),
        (!a.parallel_residual || !a.shared_norm, "residual but the parallel one with one norm"),
        (a.key_heads() != 1, "number of key-value heads but one"),
        (!a.tied, "head but the embedding"),
        (biases, "biases"),
        (a.qk_norm != QkNorm::None, "norms of queries and keys"),
        (a.norm_place != NormPlace::Before, "norms after branches"),
        (a.query_scalar.is_some(), OWN_SCALE),
        (a.sliding_base.is_some(), TWO_BASES),
        (a.has_windows(), "sliding windows"),
        (a.moe.is_some(), "experts"),
    ])
}
