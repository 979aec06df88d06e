//! The parameters of a router and its experts, in the place of a layer's MLP, by a family's names.
//!
//! A projection is one parameter of all experts, [experts, rows, columns]. Where Hugging Face has the family's experts,
//! it has a tensor for each of them, with the expert's number in its name.

use super::hugging_face::absent;
use crate::arch::{Arch, Moe, Router};
use crate::param::{Param, Piece, normal};

/// What a family calls them.
#[derive(Debug)]
pub struct Names {
    /// The router's weight.
    pub router: &'static str,
    /// Weight and bias of the first projection.
    pub up: [&'static str; 2],
    /// The same of the gate's.
    pub gate: [&'static str; 2],
    /// The same of the projection that writes into the stream.
    pub down: [&'static str; 2],
    /// Whether a class of Hugging Face has experts of these names: those of expert 3 with `experts.3.` for `experts.`.
    pub published: bool,
}

/// GPT-NeoX's names, and one for a gate, which its experts do not have. None of Hugging Face's classes has them.
pub const GPT_NEOX: Names = Names {
    router: "mlp.router.weight",
    up: ["mlp.experts.dense_h_to_4h.weight", "mlp.experts.dense_h_to_4h.bias"],
    gate: ["mlp.experts.gate_h_to_4h.weight", "mlp.experts.gate_h_to_4h.bias"],
    down: ["mlp.experts.dense_4h_to_h.weight", "mlp.experts.dense_4h_to_h.bias"],
    published: false,
};

impl Names {
    /// Where Hugging Face's checkpoints have a parameter of all experts.
    fn pieces(&self, name: &str, experts: usize) -> Vec<Piece> {
        let of = |i: usize| Piece {
            name: name.replace("experts.", &format!("experts.{i}.")),
            dim: 0,
            start: i,
            size: 1,
        };
        if self.published { (0..experts).map(of).collect() } else { vec![] }
    }

    /// The parameters of a layer.
    pub fn parameters(&self, a: &Arch, m: &Moe) -> Vec<Param> {
        let (x, e, f) = (("experts", m.experts), ("embed", a.embed), ("ffn", a.expert_ffn()));
        let of_experts = |p: Param| {
            let pieces = self.pieces(p.name, m.experts);
            p.of_experts("experts").published_as(pieces)
        };
        // The router looks at all experts: no rank has a part of it.
        let router = normal(a.init_std);
        let router = Param::weight("router.weight", self.router, &[x, e], 1, router);
        let mut p = vec![match self.published {
            true => router,
            false => router.published_as(vec![]),
        }];
        let mut wide = |roles: [&'static str; 2], names: [&'static str; 2]| {
            let w = Param::weight(roles[0], names[0], &[x, f, e], 2, normal(a.init_std));
            p.push(of_experts(w).divided("ffn"));
            if a.mlp_bias {
                p.push(of_experts(Param::bias(roles[1], names[1], &[x, f])).divided("ffn"));
            }
        };
        wide(["experts.up.weight", "experts.up.bias"], self.up);
        if a.gated {
            wide(["experts.gate.weight", "experts.gate.bias"], self.gate);
        }
        let std = normal(a.output_init_std);
        let w = Param::weight("experts.down.weight", self.down[0], &[x, e, f], 2, std);
        p.push(of_experts(w).divided("ffn"));
        if a.mlp_bias {
            p.push(of_experts(Param::bias("experts.down.bias", self.down[1], &[x, e])));
        }
        p
    }
}

/// What of an architecture no class of Hugging Face's has whose layers all have experts.
pub fn lacks_published(a: &Arch) -> Vec<&'static str> {
    let Some(m) = a.moe else { return vec!["layers without experts"] };
    absent(&[
        (m.interval > 1, "layers without experts"),
        (m.router != Router::TopK, "routers but those of type topk"),
        (m.capacity.is_some(), "slots of experts"),
    ])
}
