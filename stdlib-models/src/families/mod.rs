//! Model families: one folder each, with the names and parameters of its models, and how Hugging Face writes them.
//!
//! A family says which parameters a model has and what they are called; what a layer computes comes from
//! [`crate::blocks`], and the decoder around the layers is [`crate::decoder`].

pub mod experts;
pub mod falcon;
pub mod gemma3;
pub mod gpt_neox;
pub mod hugging_face;
pub mod llama;
pub mod mistral;
pub mod mixtral;
pub mod olmo2;
pub mod palm;
pub mod qwen2;
pub mod qwen3;
pub mod qwen3_moe;

use neoxc_ir::op::OpError;
use neoxc_ir::{Builder, ValueId};

use crate::arch::{Arch, LayerKind, Norm};
use crate::blocks::transformer::Layer;
use crate::param::Param;

/// A family of models. Parameters are asked for by role (see [`Param::role`]); the decoder needs
/// `embed.weight`, `final_norm.weight`, `head.weight` where the head is not the embedding, and
/// `positions.weight` where positions are learned.
pub trait Family: std::fmt::Debug + Sync {
    /// The family's name, as Hugging Face's `model_type`.
    fn name(&self) -> &'static str;

    /// What stands before the names of a model's body: `gpt_neox.`, of which layer 3 is `gpt_neox.layers.3.`.
    fn prefix(&self) -> &'static str;

    /// What a layer's number stands behind, after that prefix: `layers`.
    fn layers(&self) -> &'static str;

    /// Parameters outside the layers, by their full names.
    fn outer(&self, a: &Arch) -> Vec<Param>;

    /// Parameters of a layer of a kind, by their names within the layer.
    fn of_layer(&self, a: &Arch, kind: LayerKind) -> Vec<Param>;

    /// One layer on `x` [batch, seq, embed]; also its keys and values.
    ///
    /// # Errors
    /// If the layer needs a parameter that the family does not declare, or its sizes do not fit.
    fn layer(
        &self,
        a: &Arch,
        b: &mut Builder<'_>,
        l: &Layer<'_>,
        x: ValueId,
    ) -> Result<(ValueId, [ValueId; 2]), OpError>;

    /// What of an architecture a model of this family has not.
    fn lacks(&self, a: &Arch) -> Vec<&'static str>;

    /// How Hugging Face writes its models, if it has them.
    fn hugging_face(&self) -> Option<&'static hugging_face::Format>;
}

/// The parameters of a norm: a weight, and a layer norm's bias if norms have biases; one number of a scale norm.
fn norm(a: &Arch, roles: [&'static str; 2], names: [&'static str; 2]) -> Vec<Param> {
    let e = [("embed", a.embed)];
    let weight = || Param::scale(roles[0], names[0], &e).zero_centred(a.zero_centred);
    match a.norm {
        Norm::NonParametric => vec![],
        Norm::ScaleNorm => vec![Param::scale(roles[0], names[0], &[("gain", 1)])],
        Norm::LayerNorm if a.norm_bias => vec![weight(), Param::bias(roles[1], names[1], &e)],
        Norm::LayerNorm | Norm::RmsNorm => vec![weight()],
    }
}

/// All families, those with Llama's names in the order in which features choose them.
pub const ALL: &[&dyn Family] = &[
    &gpt_neox::GptNeox,
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &olmo2::OLMO2,
    &gemma3::GEMMA3,
    &mixtral::MIXTRAL,
    &qwen3_moe::QWEN3_MOE,
    &falcon::Falcon,
    &palm::PALM,
];

/// The families whose parameters are called as Llama's.
const NAMED_AS_LLAMA: std::ops::Range<usize> = 1..9;

/// The family that a model belongs to: the one that the configuration names; GPT-NeoX where the model has nothing
/// else than Hugging Face's GPT-NeoX; otherwise the first of those with Llama's names whose class has all of it, or
/// Llama.
pub fn of(a: &Arch) -> &'static dyn Family {
    if let Some(named) = a.family.as_ref().and_then(|name| ALL.iter().find(|f| f.name() == name)) {
        return *named;
    }
    if gpt_neox::GptNeox.lacks(a).is_empty() {
        return &gpt_neox::GptNeox;
    }
    let has = |f: &&&dyn Family| f.hugging_face().is_some_and(|h| (h.lacks)(a).is_empty());
    *ALL[NAMED_AS_LLAMA].iter().find(has).unwrap_or(&ALL[NAMED_AS_LLAMA.start])
}
