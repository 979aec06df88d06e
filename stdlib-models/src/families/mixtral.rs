//! Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral with gated experts in every layer, of which a token goes to
//! the most probable, with weights that are made to sum to 1.

use serde_json::{Map, Value, json};

use super::experts::{Names, lacks_published};
use super::hugging_face::{Format, Reader, Says, absent};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, lacks_dense, read_body, read_gate, set_all, write_body,
};
use crate::arch::{Arch, NormPlace, QkNorm};

/// The family.
pub const MIXTRAL: NamedAsLlama =
    NamedAsLlama { name: "mixtral", format: Some(&FORMAT), lacks, experts: &NAMES };

/// An expert is `w2(silu(w1(x)) · w3(x))`.
const NAMES: Names = Names {
    router: "block_sparse_moe.gate.weight",
    up: ["block_sparse_moe.experts.w3.weight", "block_sparse_moe.experts.w3.bias"],
    gate: ["block_sparse_moe.experts.w1.weight", "block_sparse_moe.experts.w1.bias"],
    down: ["block_sparse_moe.experts.w2.weight", "block_sparse_moe.experts.w2.bias"],
    published: true,
};

/// How Hugging Face writes Mixtral models.
const FORMAT: Format = Format {
    architecture: "MixtralForCausalLM",
    keys: &[
        BODY,
        &[
            ("hidden_act", Says::Model),
            ("num_experts_per_tok", Says::Model),
            ("num_local_experts", Says::Model),
            // Training with the class: its load-balancing loss, whose weight counts where router logits are returned.
            ("output_router_logits", Says::Nothing),
            ("router_aux_loss_coef", Says::Nothing),
            ("router_jitter_noise", Says::Only(&["0.0", "0"])),
            ("sliding_window", Says::Only(&[])),
        ],
    ],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults of Hugging Face's `MixtralConfig`.
const DEFAULTS: Defaults = Defaults {
    layers: 32,
    vocab: 32000,
    hidden: 4096,
    heads: 32,
    kv_heads: Some(8),
    head_dim: None,
    ffn: 14336,
    positions: 4096 * 32,
    eps: 1e-5,
};

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    read_gate(r);
    set_all(r, &["use_bias_in_attn_linear", "use_bias_in_mlp"], false);
    let (experts, chosen) = (r.whole("num_local_experts", 8), r.whole("num_experts_per_tok", 2));
    if !(2..=experts).contains(&chosen) {
        r.refuse("num_experts_per_tok", format!("2 to {experts} experts of a token are expected"));
    }
    r.set("moe_num_experts", experts);
    r.set("moe_top_k", chosen);
    r.set("moe_router_type", "topk");
    r.set("moe_norm_topk_prob", true);
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    out.insert("sliding_window".into(), Value::Null);
    // The width of the class's only MLPs.
    out.insert("intermediate_size".into(), json!(a.expert_ffn()));
    out.insert("num_local_experts".into(), json!(a.moe.map(|m| m.experts)));
    out.insert("num_experts_per_tok".into(), json!(a.moe.map(|m| m.top_k)));
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let own = [
        (a.attention_bias || a.out_bias || a.mlp_bias, "biases"),
        (a.moe.is_some_and(|m| !m.normalize), "weights of experts that do not sum to 1"),
    ];
    let dense = lacks_dense(a, QkNorm::None, NormPlace::Before);
    [dense, lacks_published(a), absent(&own)].concat()
}
