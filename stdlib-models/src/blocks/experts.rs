//! Mixture of experts: the MLP of a layer as one of several, chosen per token by a router.
//!
//! Tokens are routed in groups, and a group is what one rank has of a micro-batch: capacities, places and
//! the load-balancing loss are a group's own, so nothing of them depends on how many ranks there are.
//! Two forms of the same layer:
//! - *capacity-limited* (GShard, arXiv:2006.16668; DeepSpeed): every expert has as many slots of each
//!   group, what does not fit is dropped, and experts are one batched matmul;
//! - *dropless* (MegaBlocks, arXiv:2211.15841): rows sorted by expert, and matmuls of as many rows as
//!   each expert has.
//!
//! The weight of a choice is its probability; where the configuration says so, a token's weights are divided by
//! their sum (Mixtral, arXiv:2401.04088).
//!
//! An expert is an MLP as [`super::mlp`] has it, plain or gated.

use neoxc_ir::{Attr, Attrs, Builder, Dim, OpKind, ValueId};

use super::{Result, linear};
use crate::arch::{Arch, Moe, Router};

/// The parameters of a router and its experts.
#[derive(Clone, Copy)]
pub struct Experts {
    /// [experts, embed].
    pub router: ValueId,
    /// [experts, ffn, embed].
    pub up: ValueId,
    /// [experts, ffn].
    pub up_bias: Option<ValueId>,
    /// [experts, ffn, embed], of experts with a gate.
    pub gate: Option<ValueId>,
    /// [experts, ffn].
    pub gate_bias: Option<ValueId>,
    /// [experts, embed, ffn].
    pub down: ValueId,
    /// [experts, embed].
    pub down_bias: Option<ValueId>,
}

fn int(n: usize) -> Attr {
    Attr::Int(n as i64)
}

/// Which experts each token goes to, and with what weights: (indices, weights), [group, token, choice].
struct Routing {
    indices: ValueId,
    weights: ValueId,
}

/// 1 / (1 + exp(-x)).
fn sigmoid(b: &mut Builder<'_>, x: ValueId) -> Result<ValueId> {
    let half = b.scalar(0.5)?;
    let y = b.mul(x, half)?;
    let y = b.unary(OpKind::Tanh, y)?;
    let y = b.mul(y, half)?;
    b.add(y, half)
}

/// The router. Returns the routing, and the tokens with the load-balancing loss on them.
fn route(
    b: &mut Builder<'_>,
    a: &Arch,
    m: &Moe,
    weight: ValueId,
    x: ValueId,
    training: bool,
) -> Result<(Routing, ValueId)> {
    b.at(&a.loc("moe_num_experts"));
    let logits = b.matmul(x, weight, &["embed"])?;
    b.at(&a.loc("moe_router_type"));
    let probabilities = match (m.router, m.top_k) {
        // GPT-NeoX's router of this kind weighs a single choice by itself.
        (Router::Sinkhorn, 1) => sigmoid(b, logits)?,
        _ => b.one(
            OpKind::Softmax,
            &[logits],
            Attrs::new().with("dim", Attr::Str("experts".into())),
        )?,
    };
    // Balancing over a batch would let later tokens decide for earlier ones: only in training.
    let scores = match m.router {
        Router::Sinkhorn if training => {
            let rounds = m.sinkhorn_rounds.into_iter();
            let attrs = rounds.fold(Attrs::new(), |attrs, n| attrs.with("rounds", int(n)));
            b.one(OpKind::Sinkhorn, &[logits], attrs)?
        }
        _ => probabilities,
    };
    b.at(&a.loc("moe_top_k"));
    let indices = b.one(OpKind::TopK, &[scores], Attrs::new().with("k", int(m.top_k)))?;
    let mut weights = b.one(OpKind::TakeChoices, &[probabilities, indices], Attrs::new())?;
    if m.normalize {
        b.at(&a.loc("moe_norm_topk_prob"));
        let sum = b.reduce_sum(weights, &["choice"])?;
        weights = b.div(weights, sum)?;
    }
    let mut x = x;
    if training && m.loss_coeff > 0.0 {
        b.at(&a.loc("moe_loss_coeff"));
        x = balance(b, a, m, x, probabilities, indices)?;
    }
    Ok((Routing { indices, weights }, x))
}

/// The load-balancing loss (Switch Transformer, arXiv:2101.03961): per group, experts · Σ_e f_e · P_e, f
/// the fraction of choices that name expert e, P its mean probability; of several groups the mean.
fn balance(
    b: &mut Builder<'_>,
    a: &Arch,
    m: &Moe,
    x: ValueId,
    probabilities: ValueId,
    indices: ValueId,
) -> Result<ValueId> {
    let tokens = b.ty(x).size("token").unwrap_or(1);
    let groups = b.ty(x).size("group").unwrap_or(1);
    let load =
        b.one(OpKind::ExpertLoad, &[indices], Attrs::new().with("experts", int(m.experts)))?;
    let sums = b.reduce_sum(probabilities, &["token"])?;
    let product = b.mul(sums, load)?;
    let scale = b.scalar(m.experts as f64 / tokens as f64)?;
    let scaled = b.mul(product, scale)?;
    let loss = b.reduce_sum(scaled, &["experts"])?;
    // A step's loss is the mean over its micro-batches.
    let coefficient = m.loss_coeff / (groups * a.grad_accum) as f64;
    b.one(OpKind::AuxLoss, &[x, loss], Attrs::new().with("coefficient", Attr::Float(coefficient)))
}

/// Slots of an expert for each group of `tokens` tokens; `None` where nothing is dropped.
fn capacity(m: &Moe, tokens: usize, training: bool) -> Option<usize> {
    let c = m.capacity.as_ref()?;
    let factor = if training { c.train_factor } else { c.eval_factor };
    let even = (factor * (tokens * m.top_k) as f64 / m.experts as f64).ceil() as usize;
    // More than all tokens of the group never come.
    Some(even.max(c.minimum).clamp(1, tokens))
}

/// The layer's MLP on `x` [batch, seq, embed].
pub fn mlp(
    b: &mut Builder<'_>,
    a: &Arch,
    m: &Moe,
    e: Experts,
    x: ValueId,
    groups: usize,
    training: bool,
) -> Result<ValueId> {
    let stream = b.ty(x).clone();
    let tokens = stream.elements() / a.embed / groups;
    b.at(&a.loc("moe_num_experts"));
    let dims = [("group", groups), ("token", tokens), ("embed", a.embed)];
    let x = b.reshape(x, &dims.map(|(n, s)| Dim::new(n, s)))?;
    let (routing, x) = route(b, a, m, e.router, x, training)?;
    let y = match capacity(m, tokens, training) {
        Some(slots) => limited(b, a, m, e, x, &routing, slots)?,
        None => dropless(b, a, m, e, x, &routing)?,
    };
    b.reshape(y, &stream.dims)
}

/// `down(f(up(x)))` or `down(f(gate(x)) · up(x))`, where `linear` gives rows their expert's projection.
fn expert(
    b: &mut Builder<'_>,
    a: &Arch,
    e: Experts,
    rows: ValueId,
    linear: impl Fn(&mut Builder<'_>, ValueId, ValueId, Option<ValueId>, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    b.at(&a.loc("moe_num_experts"));
    let up = linear(b, rows, e.up, e.up_bias, "embed")?;
    let wide = match e.gate {
        Some(gate) => linear(b, rows, gate, e.gate_bias, "embed")?,
        None => up,
    };
    b.at(&a.loc("activation"));
    let active = a.activation.apply(b, wide)?;
    let active = if e.gate.is_some() { b.mul(active, up)? } else { active };
    b.at(&a.loc("moe_num_experts"));
    linear(b, active, e.down, e.down_bias, "ffn")
}

fn limited(
    b: &mut Builder<'_>,
    a: &Arch,
    m: &Moe,
    e: Experts,
    x: ValueId,
    r: &Routing,
    slots: usize,
) -> Result<ValueId> {
    b.at(&a.loc("moe_token_dropping"));
    let attrs = Attrs::new().with("experts", int(m.experts)).with("capacity", int(slots));
    let places = b.op(OpKind::ExpertSlots, &[r.indices], attrs)?;
    let rows = b.one(OpKind::Dispatch, &[x, places[0], places[1]], Attrs::new())?;
    let out = expert(b, a, e, rows, |b, x, w, bias, contract| linear(b, x, w, bias, &[contract]))?;
    b.at(&a.loc("moe_token_dropping"));
    b.one(OpKind::Combine, &[out, places[0], places[1], r.weights], Attrs::new())
}

fn dropless(
    b: &mut Builder<'_>,
    a: &Arch,
    m: &Moe,
    e: Experts,
    x: ValueId,
    r: &Routing,
) -> Result<ValueId> {
    b.at(&a.loc("moe_num_experts"));
    let owners = a.groups;
    let attrs = Attrs::new().with("owners", int(owners)).with("experts", int(m.experts));
    let places = b.op(OpKind::ExpertRows, &[r.indices], attrs)?;
    let (starts, counts) = (places[2], places[3]);
    let rows = b.one(OpKind::Dispatch, &[x, places[0], places[1]], Attrs::new())?;
    // Each owner's experts.
    let owned = |b: &mut Builder<'_>, w: ValueId| {
        let mut dims = vec![Dim::new("owner", owners), Dim::new("local", m.experts / owners)];
        dims.extend_from_slice(&b.ty(w).dims[1..]);
        b.reshape(w, &dims)
    };
    let linear = |b: &mut Builder<'_>, x: ValueId, w, bias: Option<ValueId>, contract: &str| {
        let w = owned(b, w)?;
        let attrs = Attrs::new().with("contract", Attr::Str(contract.into()));
        let y = b.one(OpKind::GroupedMatmul, &[x, w, starts, counts], attrs)?;
        let Some(bias) = bias else { return Ok(y) };
        let rows = b.ty(y).size("row").unwrap_or(1);
        let bias = owned(b, bias)?;
        let attrs = Attrs::new().with("rows", int(rows));
        let bias = b.one(OpKind::ExpandRows, &[bias, starts, counts], attrs)?;
        b.add(y, bias)
    };
    let out = expert(b, a, e, rows, linear)?;
    b.one(OpKind::Combine, &[out, places[0], places[1], r.weights], Attrs::new())
}
