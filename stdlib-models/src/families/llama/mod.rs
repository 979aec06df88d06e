//! Llama (Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288): names as in Hugging Face's checkpoints.
//!
//! To GPT-NeoX its models are settings of one architecture, and so they are here: the blocks are chosen by keys, and
//! the family has what is called otherwise. A model belongs to it where it has something that Hugging Face's GPT-NeoX
//! has not: RMS norms, a gated MLP, or fewer key-value heads than heads.
//!
//! Other families have the same names, and more or less of the same features; to Hugging Face they are classes of their
//! own. Each is a [`NamedAsLlama`] with the [`Format`] of its class.
//!
//! Queries, keys and values are one parameter, of which Hugging Face has three: for each key-value head the rows of
//! its query heads, then the key's, then the value's.

pub mod config_json;

use neoxc_ir::op::OpError;
use neoxc_ir::{Builder, ValueId};

use super::hugging_face::Format;
use super::{Family, experts, norm};
use crate::arch::{Arch, LayerKind, Positions, QkNorm};
use crate::blocks::transformer::{self, Layer};
use crate::param::{Param, Piece, normal};

/// A family whose parameters are called as Llama's.
#[derive(Debug)]
pub struct NamedAsLlama {
    /// The family's name, as Hugging Face's `model_type`.
    pub name: &'static str,
    /// How Hugging Face writes its models, if it has them.
    pub format: Option<&'static Format>,
    /// What of an architecture its models have not.
    pub lacks: fn(&Arch) -> Vec<&'static str>,
    /// What it calls a router and its experts.
    pub experts: &'static experts::Names,
}

/// The family, in which a model may have more than Hugging Face's class.
pub const LLAMA: NamedAsLlama = NamedAsLlama {
    name: "llama",
    format: Some(&config_json::FORMAT),
    lacks: |_| vec![],
    experts: &experts::GPT_NEOX,
};

/// The norms of a layer. The one after attention has the name that the one before the MLP has where there is none.
fn norms(a: &Arch) -> Vec<Param> {
    let (before, after) = (a.norm_place.before(), a.norm_place.after());
    let mut p = vec![];
    if before {
        let names = ["input_layernorm.weight", "input_layernorm.bias"];
        p.extend(norm(a, ["norm.weight", "norm.bias"], names));
    }
    let post = ["post_attention_layernorm.weight", "post_attention_layernorm.bias"];
    if after {
        p.extend(norm(a, ["out_norm.weight", "out_norm.bias"], post));
    }
    if before && !a.shared_norm {
        let pre = ["pre_feedforward_layernorm.weight", "pre_feedforward_layernorm.bias"];
        let names = if after { pre } else { post };
        p.extend(norm(a, ["mlp_norm.weight", "mlp_norm.bias"], names));
    }
    if after {
        let names = ["post_feedforward_layernorm.weight", "post_feedforward_layernorm.bias"];
        p.extend(norm(a, ["mlp_out_norm.weight", "mlp_out_norm.bias"], names));
    }
    p
}

/// The norms of queries and keys.
fn qk_norms(a: &Arch) -> Vec<Param> {
    let (h, d) = (("heads", a.key_heads()), ("head_dim", a.head_dim));
    let grouped = [h, ("queries", a.queries()), d];
    let (of_q, of_k) = match a.qk_norm {
        QkNorm::None => return vec![],
        QkNorm::Head => (&[d][..], &[d][..]),
        QkNorm::Width if a.queries() > 1 => (&grouped[..], &[h, d][..]),
        QkNorm::Width => (&[h, d][..], &[h, d][..]),
    };
    let norm = |role, name, dims: &[_]| {
        let p = Param::scale(role, name, dims).zero_centred(a.zero_centred);
        if a.qk_norm == QkNorm::Width { p.divided("heads") } else { p }
    };
    vec![
        norm("attention.q_norm.weight", "self_attn.q_norm.weight", of_q),
        norm("attention.k_norm.weight", "self_attn.k_norm.weight", of_k),
    ]
}

/// Queries, keys and values as ranges of dim 1 of the fused parameter.
fn pieces(a: &Arch, names: [&'static str; 3]) -> Vec<Piece> {
    let queries = a.queries();
    let piece = |name: &str, start, size| Piece { name: name.into(), dim: 1, start, size };
    vec![piece(names[0], 0, queries), piece(names[1], queries, 1), piece(names[2], queries + 1, 1)]
}

fn attention(a: &Arch) -> Vec<Param> {
    let (e, d) = (("embed", a.embed), ("head_dim", a.head_dim));
    let (h, qkv) = (("heads", a.key_heads()), ("qkv", a.queries() + 2));
    let weight = Param::weight(
        "attention.qkv.weight",
        "self_attn.qkv_proj.weight",
        &[h, qkv, d, e],
        3,
        normal(a.init_std),
    );
    let published =
        ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"];
    let mut p = vec![weight.divided("heads").published_as(pieces(a, published))];
    if a.attention_bias {
        let bias = Param::bias("attention.qkv.bias", "self_attn.qkv_proj.bias", &[h, qkv, d]);
        let published = ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"];
        p.push(bias.divided("heads").published_as(pieces(a, published)));
    }
    p.extend(qk_norms(a));
    let grouped = [e, h, ("queries", a.queries()), d];
    let dims = if a.queries() > 1 { &grouped[..] } else { &[e, h, d] };
    let (name, std) = ("self_attn.o_proj.weight", normal(a.output_init_std));
    p.push(Param::weight("attention.out.weight", name, dims, 1, std).divided("heads"));
    if a.out_bias {
        p.push(Param::bias("attention.out.bias", "self_attn.o_proj.bias", &[e]));
    }
    p
}

fn mlp(a: &Arch) -> Vec<Param> {
    let (e, f) = (("embed", a.embed), ("ffn", a.ffn));
    let mut p = vec![];
    let mut wide = |weight: [&'static str; 2], bias: [&'static str; 2]| {
        let w = Param::weight(weight[0], weight[1], &[f, e], 1, normal(a.init_std));
        p.push(w.divided("ffn"));
        if a.mlp_bias {
            p.push(Param::bias(bias[0], bias[1], &[f]).divided("ffn"));
        }
    };
    wide(["mlp.up.weight", "mlp.up_proj.weight"], ["mlp.up.bias", "mlp.up_proj.bias"]);
    if a.gated {
        wide(["mlp.gate.weight", "mlp.gate_proj.weight"], ["mlp.gate.bias", "mlp.gate_proj.bias"]);
    }
    let (name, std) = ("mlp.down_proj.weight", normal(a.output_init_std));
    p.push(Param::weight("mlp.down.weight", name, &[e, f], 1, std).divided("ffn"));
    if a.mlp_bias {
        p.push(Param::bias("mlp.down.bias", "mlp.down_proj.bias", &[e]));
    }
    p
}

impl Family for NamedAsLlama {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn layers(&self) -> &'static str {
        "layers"
    }

    fn outer(&self, a: &Arch) -> Vec<Param> {
        let (e, v) = (("embed", a.embed), ("vocab", a.vocab));
        let std = || normal(a.init_std);
        let embed = Param::weight("embed.weight", "model.embed_tokens.weight", &[v, e], 1, std());
        let mut p = vec![embed.divided_if_even("vocab").before_layers()];
        if let Positions::Learned { rows } = a.positions {
            let dims = [("position", rows), e];
            let name = "model.embed_positions.weight";
            let table = Param::weight("positions.weight", name, &dims, 1, std());
            p.push(table.before_layers().published_as(vec![]));
        }
        let names = ["model.norm.weight", "model.norm.bias"];
        p.extend(norm(a, ["final_norm.weight", "final_norm.bias"], names));
        if !a.tied {
            let head = Param::weight("head.weight", "lm_head.weight", &[v, e], 1, std());
            p.push(head.divided_if_even("vocab"));
        }
        p
    }

    fn of_layer(&self, a: &Arch, kind: LayerKind) -> Vec<Param> {
        let mut p = norms(a);
        p.extend(attention(a));
        p.extend(match a.moe.filter(|_| kind.experts) {
            Some(m) => self.experts.parameters(a, &m),
            None => mlp(a),
        });
        p
    }

    fn layer(
        &self,
        a: &Arch,
        b: &mut Builder<'_>,
        l: &Layer<'_>,
        x: ValueId,
    ) -> Result<(ValueId, [ValueId; 2]), OpError> {
        transformer::layer(a, b, l, x)
    }

    fn lacks(&self, a: &Arch) -> Vec<&'static str> {
        (self.lacks)(a)
    }

    fn hugging_face(&self) -> Option<&'static Format> {
        self.format
    }
}
