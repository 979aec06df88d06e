//! Qwen 3 MoE (Yang et al. 2025, arXiv:2505.09388): Qwen 3 with gated experts in every layer, whose width is their own
//! (`moe_intermediate_size`).

use serde_json::{Map, Value, json};

use super::experts::{Names, lacks_published};
use super::hugging_face::{Format, Reader, Says, absent};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, lacks_dense, read_body, read_gate, set_all, write_body,
};
use crate::arch::{Arch, NormPlace, QkNorm};

/// The family.
pub const QWEN3_MOE: NamedAsLlama =
    NamedAsLlama { name: "qwen3_moe", format: Some(&FORMAT), lacks, experts: &NAMES };

const NAMES: Names = Names {
    router: "mlp.gate.weight",
    up: ["mlp.experts.up_proj.weight", "mlp.experts.up_proj.bias"],
    gate: ["mlp.experts.gate_proj.weight", "mlp.experts.gate_proj.bias"],
    down: ["mlp.experts.down_proj.weight", "mlp.experts.down_proj.bias"],
    published: true,
};

/// How Hugging Face writes Qwen 3 MoE models.
const FORMAT: Format = Format {
    architecture: "Qwen3MoeForCausalLM",
    keys: &[
        BODY,
        &[
            ("attention_bias", Says::Model),
            // Layers without experts.
            ("decoder_sparse_step", Says::Only(&["1"])),
            ("mlp_only_layers", Says::Only(&["[]"])),
            ("hidden_act", Says::Model),
            // Which layers have a window, where windows are used.
            ("max_window_layers", Says::Nothing),
            ("sliding_window", Says::Nothing),
            ("use_sliding_window", Says::Only(&["false"])),
            ("moe_intermediate_size", Says::Model),
            ("norm_topk_prob", Says::Model),
            ("num_experts", Says::Model),
            ("num_experts_per_tok", Says::Model),
            ("num_local_experts", Says::Model), // `num_experts` in transformers 5.
            // Training with the class: its load-balancing loss, whose weight counts where router logits are returned.
            ("output_router_logits", Says::Nothing),
            ("router_aux_loss_coef", Says::Nothing),
        ],
    ],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults of Hugging Face's `Qwen3MoeConfig`.
const DEFAULTS: Defaults = Defaults {
    layers: 24,
    vocab: 151_936,
    hidden: 2048,
    heads: 32,
    kv_heads: Some(4),
    head_dim: None,
    ffn: 6144,
    positions: 32768,
    eps: 1e-6,
};

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    if r.gives("num_key_value_heads") && r.get("num_key_value_heads").is_none() {
        // Other classes take the number of heads then; this one cannot be made.
        r.refuse("num_key_value_heads", "a number is expected");
    }
    read_gate(r);
    r.set("qk_norm", "head");
    let biases = r.flag("attention_bias", false);
    r.set("use_bias_in_attn_linear", biases);
    set_all(r, &["use_bias_in_mlp"], false);
    let newer = r.whole("num_local_experts", 128);
    let experts = r.whole("num_experts", newer);
    if r.get("num_local_experts").is_some() && newer != experts {
        r.refuse("num_local_experts", format!("`num_experts` is {experts}"));
    }
    let chosen = r.whole("num_experts_per_tok", 8);
    if experts < 2 || !(1..=experts).contains(&chosen) {
        let why = format!("a token cannot go to {chosen} experts of {experts}");
        let count =
            if r.get("num_experts").is_some() { "num_experts" } else { "num_local_experts" };
        let key = if r.get(count).is_some() { count } else { "num_experts_per_tok" };
        r.refuse(key, why);
    }
    r.set("moe_num_experts", experts);
    r.set("moe_top_k", chosen);
    r.set("moe_router_type", "topk");
    let normalize = r.flag("norm_topk_prob", false);
    r.set("moe_norm_topk_prob", normalize);
    let width = r.whole("moe_intermediate_size", 768);
    r.set("moe_intermediate_size", width);
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    out.insert("attention_bias".into(), a.attention_bias.into());
    out.insert("decoder_sparse_step".into(), json!(1));
    out.insert("mlp_only_layers".into(), json!([]));
    out.insert("use_sliding_window".into(), false.into());
    out.insert("moe_intermediate_size".into(), a.expert_ffn().into());
    if let Some(m) = a.moe {
        out.insert("num_experts".into(), m.experts.into());
        out.insert("num_experts_per_tok".into(), m.top_k.into());
        out.insert("norm_topk_prob".into(), m.normalize.into());
    }
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let own = [
        (a.attention_bias != a.out_bias, "attention with biases in some places only"),
        (a.mlp_bias, "biases of experts"),
    ];
    let dense = lacks_dense(a, QkNorm::Head, NormPlace::Before);
    [dense, lacks_published(a), absent(&own)].concat()
}
