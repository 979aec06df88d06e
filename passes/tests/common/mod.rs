//! A tiny model and random inputs for its entries.
#![allow(dead_code)] // each test uses its part

use std::collections::BTreeMap;

use neoxc_ir::cluster::Machine;
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::op::OpError;
use neoxc_ir::role::name_of;
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, DType, Module, Role, keys};
use neoxc_models::arch::{Arch, Moe, Norm, NormPlace, Positions, QkNorm, Router};
use neoxc_models::blocks::activations::Activation;

/// Links without latency: nothing is too small for a collective of its own.
pub fn without_latency() -> Machine {
    let mut machine = Machine::of(Target::X86V4);
    machine.within.latency = 0.0;
    machine
}

pub fn arch() -> Arch {
    Arch {
        family: None,
        batch: 2,
        groups: 1,
        grad_accum: 1,
        seq: 5,
        layers: 2,
        attention: vec![],
        window: None,
        embed: 6,
        heads: 2,
        kv_heads: None,
        head_dim: 3,
        qk_norm: QkNorm::None,
        ffn: 7,
        vocab: 11,
        positions: Positions::Rotary { dims: 2, base: 10_000.0, scaling: None },
        max_positions: 5,
        norm: Norm::LayerNorm,
        zero_centred: false,
        position_offset: 0,
        embedding_scale: 1.0,
        sliding_base: None,
        query_scalar: None,
        norm_place: NormPlace::Before,
        eps: 1e-5,
        parallel_residual: true,
        shared_norm: false,
        activation: Activation::Gelu,
        gated: false,
        norm_bias: true,
        attention_bias: true,
        out_bias: true,
        mlp_bias: true,
        moe: None,
        tied: false,
        init_std: 0.3.into(),
        output_init_std: 0.2.into(),
        checkpoint: None,
        precision: neoxc_ir::DType::F32,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        seed: 1234,
        locs: BTreeMap::new(),
    }
}

/// What the tests train with.
pub const OPTIMIZER: &str = "adam beta1=0.9 beta2=0.95 eps=1e-8 weight_decay=0.1";

/// The model, and what a step of it is built with.
pub fn build(a: &Arch) -> Result<Module, OpError> {
    build_with(a, OPTIMIZER, 0.5)
}

/// The same with another optimizer, and another limit of the gradient's norm.
pub fn build_with(a: &Arch, optimizer: &str, clip: f64) -> Result<Module, OpError> {
    let mut m = neoxc_models::build(a)?;
    m.attrs.set(keys::OPTIMIZER, Attr::Str(optimizer.into()));
    m.attrs.set(keys::CLIP, Attr::Float(clip));
    Ok(m)
}

/// Freezes every other parameter, beginning with the first or the second one.
pub fn freeze(m: &mut Module, first: usize) {
    let loss = m.function("loss").unwrap();
    let names = Role::Parameter.all(loss).map(|(_, a)| name_of(a).to_string());
    let frozen: Vec<String> = names.skip(first).step_by(2).collect();
    for attrs in m.functions.iter_mut().flat_map(|f| &mut f.param_attrs) {
        if Role::Parameter.is(attrs) && frozen.iter().any(|n| n == name_of(attrs)) {
            attrs.set(keys::FROZEN, Attr::Bool(true));
        }
    }
}

/// What an input is, with the slot of state.
pub fn kind(attrs: &Attrs) -> String {
    let role = Role::of(attrs).map_or("", Role::name);
    [role, attrs.str(keys::SLOT).unwrap_or_default()].join(" ").trim().to_string()
}

/// Llama: RMS norms, a gated MLP, two query heads for a key.
pub fn llama() -> Arch {
    Arch {
        embed: 12,
        heads: 4,
        kv_heads: Some(2),
        norm: Norm::RmsNorm,
        norm_bias: false,
        attention_bias: false,
        out_bias: false,
        mlp_bias: false,
        activation: Activation::Silu,
        gated: true,
        parallel_residual: false,
        ..arch()
    }
}

/// Experts in every layer, nothing dropped.
pub fn moe() -> Moe {
    Moe {
        experts: 4,
        interval: 1,
        top_k: 1,
        router: Router::TopK,
        capacity: None,
        loss_coeff: 0.0,
        sinkhorn_rounds: None,
        normalize: false,
        ffn: None,
    }
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    pub fn unit(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 30) as f64 - 1.0
    }
}

/// Values for the parameters of @`name`: small weights, valid ids, a mask with holes.
pub fn inputs(m: &Module, name: &str, r: &mut Random) -> Vec<Tensor> {
    let f = m.function(name).unwrap();
    let tables = m.function("setup").map(|_| run(m, "setup", &[]).unwrap()).unwrap_or_default();
    // Entries that need fewer constants need the first ones.
    let mut tables = tables.into_iter();
    let own = f.param_attrs.iter().filter(|a| a.str("neox.role") != Some("rounded")).count();
    let all = f.params[..own]
        .iter()
        .zip(&f.param_attrs)
        .map(|(p, attrs)| {
            let ty = f.ty(*p).clone();
            let which = attrs.str("neox.name").unwrap_or_default();
            match (Role::of(attrs), which) {
                (Some(Role::Const), _) => tables.next().unwrap(),
                (Some(Role::Layers), _) => Tensor::from_fn(ty, |i| i[0] as f64),
                (_, "mask") => Tensor::from_fn(ty, |_| f64::from(!r.next().is_multiple_of(4))),
                (_, "last") => Tensor::fill(ty, 3.0),
                (Some(Role::Scalar), "loss_scale") => Tensor::fill(ty, 4096.0),
                (Some(Role::Scalar), "lr") => Tensor::fill(ty, 0.01),
                (Some(Role::Scalar), _) => Tensor::fill(ty, 0.4),
                // A mean of squares is positive.
                (Some(Role::State), _) if attrs.str(keys::SLOT) == Some("exp_avg_sq") => {
                    Tensor::from_fn(ty, |_| r.unit().abs())
                }
                _ if ty.dtype == DType::I32 => Tensor::from_fn(ty, |_| (r.next() % 11) as f64),
                _ => Tensor::from_fn(ty, |_| 0.5 * r.unit()),
            }
        })
        .collect();
    with_rounded(m, name, all)
}

/// Operands of @`name` of which rounded weights, which stand last, are missing: with these.
pub fn with_rounded(m: &Module, name: &str, mut operands: Vec<Tensor>) -> Vec<Tensor> {
    let f = m.function(name).unwrap();
    if operands.len() < f.params.len() {
        let all = operands.iter().zip(&f.param_attrs);
        let weights = all.filter(|(_, a)| a.get("neox.param").is_some()).map(|(x, _)| x.clone());
        operands.extend(run(m, "round_weights", &weights.collect::<Vec<_>>()).unwrap());
    }
    assert_eq!(operands.len(), f.params.len());
    operands
}
