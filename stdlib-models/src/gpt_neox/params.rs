//! The parameters of a GPT-NeoX model: names as in published checkpoints, dims, start values.

use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, DType, Dim, TensorType, ValueId, keys};

use super::Result;
use crate::arch::{Arch, Moe, Positions};

/// Initial distribution of a parameter.
#[derive(Clone, Copy)]
pub(super) enum Init {
    Zeros,
    Ones,
    Weight,
    OutputWeight,
}

/// One parameter: its name (within the layer for per-layer ones), dims, and treatment.
pub(super) struct Param {
    pub(super) name: &'static str,
    dims: Vec<Dim>,
    init: Init,
}

impl Param {
    pub(super) fn new(name: &'static str, dims: &[(&str, usize)], init: Init) -> Self {
        Self { name, dims: dims.iter().map(|(n, s)| Dim::new(n, *s)).collect(), init }
    }

    /// NeoX's rule: norms and biases are not decayed.
    pub(super) fn decays(&self) -> bool {
        !self.name.contains("norm") && !self.name.ends_with("bias")
    }

    pub(super) fn ty(&self) -> TensorType {
        TensorType::new(DType::F32, self.dims.clone())
    }

    /// The name of the function parameter: `attention.dense.weight` → `attention_dense_weight`.
    pub(super) fn short(&self) -> String {
        self.name.replace('.', "_")
    }

    pub(super) fn attrs(&self, a: &Arch, full_name: &str) -> Attrs {
        let init = match self.init {
            Init::Zeros => "zeros".to_string(),
            Init::Ones => "ones".to_string(),
            Init::Weight => format!("normal:{:?}", a.init_std),
            Init::OutputWeight => format!("normal:{:?}", a.output_init_std),
        };
        Attrs::new()
            .with(keys::PARAM, Attr::Str(full_name.to_string()))
            .with(keys::INIT, Attr::Str(init))
            .with(keys::DECAY, Attr::Bool(self.decays()))
    }
}

/// The experts of layer `position` of a period.
pub(super) fn experts_of(a: &Arch, position: usize) -> Option<&Moe> {
    a.moe.as_ref().filter(|_| position == 0)
}

/// Parameters of layer `position` of a period.
pub(super) fn block_params(a: &Arch, position: usize) -> Vec<Param> {
    let (e, h, d, f) =
        (("embed", a.embed), ("heads", a.heads), ("head_dim", a.head_dim), ("ffn", a.ffn));
    let qkv = ("qkv", 3);
    let mut p = vec![];
    let norm = |p: &mut Vec<Param>, weight, bias| {
        p.push(Param::new(weight, &[e], Init::Ones));
        if a.norm_bias {
            p.push(Param::new(bias, &[e], Init::Zeros));
        }
    };
    norm(&mut p, "input_layernorm.weight", "input_layernorm.bias");
    if !a.shared_norm {
        norm(&mut p, "post_attention_layernorm.weight", "post_attention_layernorm.bias");
    }
    p.push(Param::new("attention.query_key_value.weight", &[h, qkv, d, e], Init::Weight));
    if a.attention_bias {
        p.push(Param::new("attention.query_key_value.bias", &[h, qkv, d], Init::Zeros));
    }
    p.push(Param::new("attention.dense.weight", &[e, h, d], Init::OutputWeight));
    if a.attention_bias {
        p.push(Param::new("attention.dense.bias", &[e], Init::Zeros));
    }
    let Some(m) = experts_of(a, position) else {
        p.push(Param::new("mlp.dense_h_to_4h.weight", &[f, e], Init::Weight));
        if a.mlp_bias {
            p.push(Param::new("mlp.dense_h_to_4h.bias", &[f], Init::Zeros));
        }
        p.push(Param::new("mlp.dense_4h_to_h.weight", &[e, f], Init::OutputWeight));
        if a.mlp_bias {
            p.push(Param::new("mlp.dense_4h_to_h.bias", &[e], Init::Zeros));
        }
        return p;
    };
    let x = ("experts", m.experts);
    p.push(Param::new("mlp.router.weight", &[x, e], Init::Weight));
    p.push(Param::new("mlp.experts.dense_h_to_4h.weight", &[x, f, e], Init::Weight));
    if a.mlp_bias {
        p.push(Param::new("mlp.experts.dense_h_to_4h.bias", &[x, f], Init::Zeros));
    }
    p.push(Param::new("mlp.experts.dense_4h_to_h.weight", &[x, e, f], Init::OutputWeight));
    if a.mlp_bias {
        p.push(Param::new("mlp.experts.dense_4h_to_h.bias", &[x, e], Init::Zeros));
    }
    p
}

/// The name of a parameter of layer `position` of a period within its function.
pub(super) fn short_at(a: &Arch, p: &Param, position: usize) -> String {
    match a.interval() {
        1 => p.short(),
        _ => format!("at{position}_{}", p.short()),
    }
}

/// Parameters outside the layers.
pub(super) fn outer_params(a: &Arch) -> Vec<Param> {
    let (e, v) = (("embed", a.embed), ("vocab", a.vocab));
    let mut p = vec![Param::new("gpt_neox.embed_in.weight", &[v, e], Init::Weight)];
    if let Positions::Learned { rows } = a.positions {
        p.push(Param::new("gpt_neox.embed_pos.weight", &[("position", rows), e], Init::Weight));
    }
    p.push(Param::new("gpt_neox.final_layer_norm.weight", &[e], Init::Ones));
    if a.norm_bias {
        p.push(Param::new("gpt_neox.final_layer_norm.bias", &[e], Init::Zeros));
    }
    if !a.tied {
        p.push(Param::new("embed_out.weight", &[v, e], Init::Weight));
    }
    p
}

/// Parameters of a function under construction, found by name.
pub(super) struct Values(pub(super) Vec<(&'static str, ValueId)>);

impl Values {
    pub(super) fn get(&self, name: &str) -> Option<ValueId> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    pub(super) fn need(&self, name: &str) -> Result<ValueId> {
        self.get(name).ok_or_else(|| OpError::new(format!("the model has no `{name}`")))
    }
}
