//! Checked configuration → what the model files and the runtime need.

use neoxc_base::codes::unknown_parameter::unknown_parameter;
use neoxc_base::diag::Span;
use neoxc_config::{Run, Settings};
use neoxc_frontend::Config;
use neoxc_frontend::config;
use neoxc_ir::{Attr, DType, Loc, Module, keys};
use neoxc_models::Arch;
use neoxc_models::arch::Positions;
use neoxc_models::blocks::activations::Activation;

use crate::CompileError;

/// The architecture, with the place of every key.
pub fn arch(c: &Config) -> Arch {
    let m = &c.model;
    Arch {
        family: m.model_family.clone(),
        // What the expert ranks have of a micro-batch of all of them is each one's own.
        batch: c.run.micro_batch * c.parallel.expert,
        groups: c.parallel.expert,
        // A step is the same whatever the number of ranks that divide its micro-batches.
        grad_accum: c.run.grad_accum * c.parallel.data,
        seq: m.seq_length,
        layers: m.num_layers,
        attention: m.attention.clone(),
        window: m.sliding_window,
        embed: m.hidden_size,
        heads: m.num_attention_heads,
        kv_heads: m.num_kv_heads,
        head_dim: m.head_dim(),
        qk_norm: m.qk_norm,
        query_scalar: m.query_pre_attn_scalar,
        ffn: m.intermediate_size,
        vocab: m.padded_vocab_size,
        positions: match m.pos_emb.as_str() {
            "rotary" => Positions::Rotary {
                dims: m.rotary_dims,
                base: m.rotary_emb_base,
                scaling: m.rope_scaling,
            },
            "sinusoidal" => Positions::Sinusoidal,
            "learned" => Positions::Learned { rows: m.max_position_embeddings },
            _ => Positions::None,
        },
        sliding_base: m.sliding_rotary_emb_base,
        position_offset: m.opt_pos_emb_offset,
        embedding_scale: m.embedding_scale,
        max_positions: m.max_position_embeddings,
        norm: m.norm,
        norm_place: m.norm_place,
        eps: m.layernorm_epsilon,
        zero_centred: m.zero_centred_norms,
        parallel_residual: m.gpt_j_residual,
        shared_norm: m.gpt_j_tied,
        activation: activation(m.activation, m.gelu_tanh),
        gated: m.activation.gated(),
        norm_bias: m.use_bias_in_norms,
        attention_bias: m.use_bias_in_attn_linear,
        out_bias: m.bias_of_output(),
        mlp_bias: m.use_bias_in_mlp,
        moe: m.moe,
        tied: m.tied,
        init_std: m.init_std,
        output_init_std: m.output_init_std,
        checkpoint: m.checkpoint,
        precision: match m.precision {
            config::Precision::F32 => DType::F32,
            config::Precision::Bf16 => DType::Bf16,
            config::Precision::F16 => DType::F16,
        },
        hidden_dropout: m.hidden_dropout,
        attention_dropout: m.attention_dropout,
        seed: c.run.seed,
        locs: c
            .places
            .iter()
            .map(|(k, (file, line, column))| {
                let name = std::path::Path::new(file).file_name();
                let name = name.map_or(file.clone(), |n| n.to_string_lossy().into_owned());
                (k.clone(), Loc::file(&name, *line, *column))
            })
            .collect(),
    }
}

/// What a training step is built with, on the module: the optimizer and its settings, and the limit of the gradient's
/// norm; and on the parameters of groups what their groups say.
///
/// # Errors
/// If the configuration's optimizer is not known, or a group's pattern fits no parameter.
pub fn set_optimizer(c: &Config, m: &mut Module) -> Result<(), CompileError> {
    let kind = &c.optimizer.kind;
    let lost = || CompileError::Model(format!("no optimizer is called {kind}"));
    let settings = c.optimizer.settings().ok_or_else(lost)?;
    m.attrs.set(keys::OPTIMIZER, Attr::Str(settings.to_string()));
    m.attrs.set(keys::CLIP, Attr::Float(c.optimizer.gradient_clipping));
    let mut fits = vec![false; c.optimizer.groups.len()];
    let mut names: Vec<String> = vec![];
    for attrs in m.functions.iter_mut().flat_map(|f| &mut f.param_attrs) {
        let Some(name) = attrs.str(keys::PARAM).map(str::to_string) else { continue };
        let mut first = true;
        for (group, fits) in c.optimizer.groups.iter().zip(&mut fits) {
            if !group.has(&name) {
                continue;
            }
            *fits = true;
            if std::mem::take(&mut first) {
                if group.lr_scale != 1.0 {
                    attrs.set(keys::RATE, Attr::Float(group.lr_scale));
                }
                if let Some(decay) = group.weight_decay {
                    attrs.set(keys::WEIGHT_DECAY, Attr::Float(decay));
                }
            }
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match fits.iter().position(|fits| !fits) {
        None => Ok(()),
        Some(n) => {
            let place = c.places.get("param_groups").map(|(file, line, column)| {
                let (line, column) = (*line, *column);
                Span { file: file.as_str().into(), line, column, length: 12 }
            });
            let d = unknown_parameter(&c.optimizer.groups[n].params, &names, place.as_ref());
            Err(CompileError::Refused(Box::new(d)))
        }
    }
}

/// The function of an activation, or of a gate's. `gelu_tanh` is about plain GELU only.
fn activation(kind: config::Activation, gelu_tanh: bool) -> Activation {
    use config::Activation as Kind;
    match kind {
        Kind::Gelu if gelu_tanh => Activation::GeluTanh,
        Kind::GeGluTanh => Activation::GeluTanh,
        Kind::Gelu | Kind::GeGlu => Activation::Gelu,
        Kind::Relu | Kind::ReGlu => Activation::Relu,
        Kind::Silu | Kind::SwiGlu => Activation::Silu,
        Kind::Softsign => Activation::Softsign,
        Kind::Mish => Activation::Mish,
        Kind::Glu => Activation::Logistic,
        Kind::Bilinear => Activation::Identity,
    }
}

/// The `run` section of a plan. A step is the same whatever the number of ranks that divide its micro-batches,
/// and a micro-batch holds what the expert ranks have of it.
pub fn run(c: &Config) -> Settings {
    let p = &c.parallel;
    Settings {
        seq_length: c.model.seq_length,
        padded_vocab_size: c.model.padded_vocab_size,
        vocab_size: c.model.vocab_size,
        groups: p.expert,
        rate: c.optimizer.rate,
        run: Run {
            micro_batch: c.run.micro_batch * p.expert,
            grad_accum: c.run.grad_accum * p.data,
            ..c.run.clone()
        },
    }
}
