//! GPT-NeoX (Black et al. 2022, arXiv:2204.06745; Pythia is of the same family): names as in published
//! checkpoints.

mod config_json;

use neoxc_ir::op::OpError;
use neoxc_ir::{Builder, ValueId};

use super::{Family, hugging_face, norm};
use crate::arch::{Arch, LayerKind, Norm, Positions, QkNorm};
use crate::blocks::transformer::{self, Layer};
use crate::param::{Param, normal};

/// The family.
#[derive(Debug)]
pub struct GptNeox;

fn attention(a: &Arch) -> Vec<Param> {
    let (e, h, d) = (("embed", a.embed), ("heads", a.heads), ("head_dim", a.head_dim));
    let qkv = ("qkv", 3);
    let name = "attention.query_key_value.weight";
    let weight =
        Param::weight("attention.qkv.weight", name, &[h, qkv, d, e], 3, normal(a.init_std));
    let mut p = vec![weight.divided("heads")];
    if a.attention_bias {
        let name = "attention.query_key_value.bias";
        p.push(Param::bias("attention.qkv.bias", name, &[h, qkv, d]).divided("heads"));
    }
    let (name, std) = ("attention.dense.weight", normal(a.output_init_std));
    p.push(Param::weight("attention.out.weight", name, &[e, h, d], 1, std).divided("heads"));
    if a.out_bias {
        p.push(Param::bias("attention.out.bias", "attention.dense.bias", &[e]));
    }
    p
}

fn mlp(a: &Arch) -> Vec<Param> {
    let (e, f) = (("embed", a.embed), ("ffn", a.ffn));
    let (up, down) = (normal(a.init_std), normal(a.output_init_std));
    let name = "mlp.dense_h_to_4h.weight";
    let mut p = vec![Param::weight("mlp.up.weight", name, &[f, e], 1, up).divided("ffn")];
    if a.mlp_bias {
        p.push(Param::bias("mlp.up.bias", "mlp.dense_h_to_4h.bias", &[f]).divided("ffn"));
    }
    let name = "mlp.dense_4h_to_h.weight";
    p.push(Param::weight("mlp.down.weight", name, &[e, f], 1, down).divided("ffn"));
    if a.mlp_bias {
        p.push(Param::bias("mlp.down.bias", "mlp.dense_4h_to_h.bias", &[e]));
    }
    p
}

impl Family for GptNeox {
    fn name(&self) -> &'static str {
        "gpt_neox"
    }

    fn prefix(&self) -> &'static str {
        "gpt_neox."
    }

    fn layers(&self) -> &'static str {
        "layers"
    }

    fn outer(&self, a: &Arch) -> Vec<Param> {
        let (e, v) = (("embed", a.embed), ("vocab", a.vocab));
        let std = || normal(a.init_std);
        let embed = Param::weight("embed.weight", "gpt_neox.embed_in.weight", &[v, e], 1, std());
        let mut p = vec![embed.divided_if_even("vocab").before_layers()];
        if let Positions::Learned { rows } = a.positions {
            let dims = [("position", rows), e];
            let name = "gpt_neox.embed_pos.weight";
            let table = Param::weight("positions.weight", name, &dims, 1, std());
            p.push(table.before_layers().published_as(vec![]));
        }
        p.extend(norm(
            a,
            ["final_norm.weight", "final_norm.bias"],
            ["gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias"],
        ));
        if !a.tied {
            let head = Param::weight("head.weight", "embed_out.weight", &[v, e], 1, std());
            p.push(head.divided_if_even("vocab"));
        }
        p
    }

    fn of_layer(&self, a: &Arch, kind: LayerKind) -> Vec<Param> {
        let mut p = norm(
            a,
            ["norm.weight", "norm.bias"],
            ["input_layernorm.weight", "input_layernorm.bias"],
        );
        if !a.shared_norm {
            p.extend(norm(
                a,
                ["mlp_norm.weight", "mlp_norm.bias"],
                ["post_attention_layernorm.weight", "post_attention_layernorm.bias"],
            ));
        }
        p.extend(attention(a));
        p.extend(match a.moe.filter(|_| kind.experts) {
            Some(m) => super::experts::GPT_NEOX.parameters(a, &m),
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
        hugging_face::absent(&[
            (a.norm == Norm::RmsNorm, "RMS norms"),
            (a.gated, "gates"),
            (a.queries() > 1, "heads that share keys"),
            (a.heads * a.head_dim != a.embed, "heads of another width together than the model's"),
            (a.qk_norm != QkNorm::None, "norms of queries and keys"),
            (a.norm_place.after(), "norms after branches"),
        ])
    }

    fn hugging_face(&self) -> Option<&'static hugging_face::Format> {
        Some(&config_json::FORMAT)
    }
}
