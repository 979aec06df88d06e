//! GPT-NeoX (Black et al. 2022, arXiv:2204.06745; Pythia uses the same family).
//!
//! [`build`] gives the Model phase: `@loss` (one micro-batch), `@logits` (one sequence, one
//! position), `@decode` (one token behind others whose keys and values are kept), `@block`, `@decode.block` and `@logits.block` (one layer, or the layers of one turn where they are of
//! several kinds), `@setup` (rotary tables); `@eval_step` with `@eval.block` where evaluation computes
//! something else than training.

mod params;

use neoxc_ir::op::OpError;
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Dim, Function, Module, Output, TensorType, ValueId, keys,
};

use crate::arch::{Arch, Moe, Positions};
use crate::dropout::{self, Names, Site};
use crate::{layers, moe};
use params::{Param, Values, block_params, experts_of, outer_params, short_at};

type Result<T> = std::result::Result<T, OpError>;

/// cos and sin of `seq` places: [seq, rot].
fn table_types(a: &Arch, seq: usize) -> Vec<(&'static str, TensorType)> {
    match a.positions {
        Positions::Rotary { dims, .. } => {
            let ty = TensorType::f32(&[("seq", seq), ("rot", dims / 2)]);
            vec![("rotary_cos", ty.clone()), ("rotary_sin", ty)]
        }
        _ => vec![],
    }
}

/// What a function is for.
#[derive(Clone, Copy, PartialEq)]
enum Use {
    Train,
    Evaluate,
    /// One sequence.
    Generate,
    /// One token of one sequence.
    Decode,
}

/// The keys, or the values, of a layer that are kept of a sequence: [batch, heads, past, head_dim].
fn kept(a: &Arch) -> TensorType {
    let dims = [("batch", 1), ("heads", a.heads), ("past", a.seq), ("head_dim", a.head_dim)];
    TensorType::f32(&dims)
}

/// One period of layers for sequences of shape [`batch`, seq].
fn block(a: &Arch, name: &str, what: Use) -> Result<Function> {
    let single = matches!(what, Use::Generate | Use::Decode);
    let batch = if single { 1 } else { a.batch };
    let seq = if what == Use::Decode { 1 } else { a.seq };
    let mut f = Function::new(name);
    let stream = TensorType::f32(&[("batch", batch), ("seq", seq), ("embed", a.embed)]);
    let mut x = f.add_param("x", stream, Attrs::new());
    let turn: Vec<Values> = (0..a.interval())
        .map(|position| {
            let add =
                |p: &Param| (p.name, f.add_param(&short_at(a, p, position), p.ty(), Attrs::new()));
            Values(block_params(a, position).iter().map(add).collect())
        })
        .collect();
    let drops = what == Use::Train && dropout::drops(a);
    let names = drops.then(|| Names::declare(a, &mut f, None));
    let past = (what == Use::Decode).then(|| {
        let [keys, values] = ["keys", "values"].map(|n| f.add_param(n, kept(a), Attrs::new()));
        let count = TensorType::new(DType::I32, vec![Dim::new("seq", 1)]);
        Past { keys, values, count: f.add_param("count", count, Attrs::new()) }
    });
    let tables: Vec<ValueId> =
        table_types(a, seq).into_iter().map(|(n, ty)| f.add_param(n, ty, Attrs::new())).collect();
    let b = &mut Builder::new(&mut f);
    let mut own = vec![];
    for (position, p) in turn.iter().enumerate() {
        let names = names.as_ref().map(|n| n.at(position));
        let past = past.as_ref();
        let kind = Kind { experts: experts_of(a, position), names: names.as_ref(), past, what };
        (x, own) = layer(a, b, p, &tables, x, &kind)?;
    }
    f.results = vec![x];
    f.results.extend(past.map(|_| own).into_iter().flatten());
    Ok(f)
}

/// What one layer is made of.
struct Kind<'a> {
    experts: Option<&'a Moe>,
    /// Where elements are dropped.
    names: Option<&'a Names>,
    /// The tokens before, if they are not in the stream.
    past: Option<&'a Past>,
    what: Use,
}

/// Keys and values of the tokens before the one in the stream, and how many there are.
struct Past {
    keys: ValueId,
    values: ValueId,
    count: ValueId,
}

/// One layer; also its keys and values.
fn layer(
    a: &Arch,
    b: &mut Builder<'_>,
    p: &Values,
    tables: &[ValueId],
    x: ValueId,
    kind: &Kind<'_>,
) -> Result<(ValueId, Vec<ValueId>)> {
    let Kind { experts, names, past, what } = *kind;
    let drop = |b: &mut Builder<'_>, x, site| match names {
        Some(names) => names.hidden(a, b, x, site),
        None => Ok(x),
    };

    b.at(&a.loc("layernorm_epsilon"));
    let norm = |b: &mut Builder<'_>, x, which: &str| {
        let weight = p.need(&format!("{which}.weight"))?;
        layers::layer_norm(b, x, weight, p.get(&format!("{which}.bias")), "embed", a.eps)
    };
    let normal = norm(b, x, "input_layernorm")?;

    b.at(&a.loc("num_attention_heads"));
    let weight = p.need("attention.query_key_value.weight")?;
    let bias = p.get("attention.query_key_value.bias");
    let qkv = layers::linear(b, normal, weight, bias, &["embed"])?;
    let split = b.named("qkv_split", &[qkv], Attrs::new())?;
    let (mut q, mut k, v) = (split[0], split[1], split[2]);
    if let [cos, sin] = tables[..] {
        b.at(&a.loc("rotary_pct"));
        q = b.one("rotary", &[q, cos, sin], Attrs::new())?;
        k = b.one("rotary", &[k, cos, sin], Attrs::new())?;
    }
    b.at(&a.loc("num_attention_heads"));
    let scale = 1.0 / (a.head_dim as f64).sqrt();
    let mixed = match past {
        Some(Past { keys, values, count }) => {
            let attrs = Attrs::new().with("scale", Attr::Float(scale));
            b.one("cached_attention", &[q, k, v, *keys, *values, *count], attrs)?
        }
        None => layers::attention(b, q, k, v, scale, |b, weights| match names {
            Some(names) => {
                let dropped = names.weights(a, b, weights);
                b.at(&a.loc("num_attention_heads"));
                dropped
            }
            None => Ok(weights),
        })?,
    };
    let weight = p.need("attention.dense.weight")?;
    let bias = p.get("attention.dense.bias");
    let attended = layers::linear(b, mixed, weight, bias, &["heads", "head_dim"])?;
    let attended = drop(b, attended, Site::Attention)?;

    b.at(&a.loc("gpt_j_residual"));
    let middle = if a.parallel_residual { x } else { b.add(x, attended)? };
    b.at(&a.loc("layernorm_epsilon"));
    let normal = if a.shared_norm { normal } else { norm(b, middle, "post_attention_layernorm")? };

    let out = match experts {
        Some(m) => {
            let experts = moe::Experts {
                router: p.need("mlp.router.weight")?,
                up: p.need("mlp.experts.dense_h_to_4h.weight")?,
                up_bias: p.get("mlp.experts.dense_h_to_4h.bias"),
                down: p.need("mlp.experts.dense_4h_to_h.weight")?,
                down_bias: p.get("mlp.experts.dense_4h_to_h.bias"),
            };
            let groups = if what == Use::Generate { 1 } else { a.groups };
            moe::mlp(b, a, m, experts, normal, groups, what == Use::Train)?
        }
        None => mlp(a, b, p, normal)?,
    };
    let out = drop(b, out, Site::Mlp)?;

    b.at(&a.loc("gpt_j_residual"));
    let branches = if a.parallel_residual { b.add(out, attended)? } else { out };
    Ok((b.add(branches, middle)?, vec![k, v]))
}

/// The MLP of a layer without experts.
fn mlp(a: &Arch, b: &mut Builder<'_>, p: &Values, x: ValueId) -> Result<ValueId> {
    b.at(&a.loc("intermediate_size"));
    let weight = p.need("mlp.dense_h_to_4h.weight")?;
    let wide = layers::linear(b, x, weight, p.get("mlp.dense_h_to_4h.bias"), &["embed"])?;
    b.at(&a.loc("activation"));
    let active = layers::gelu(b, wide, a.gelu_tanh)?;
    b.at(&a.loc("intermediate_size"));
    let weight = p.need("mlp.dense_4h_to_h.weight")?;
    layers::linear(b, active, weight, p.get("mlp.dense_4h_to_h.bias"), &["ffn"])
}

/// What the layers need besides the stream.
struct Inputs {
    stacked: Vec<ValueId>,
    tables: Vec<ValueId>,
    /// Where elements are dropped.
    names: Option<Names>,
}

/// Everything up to the last layer's output: [`batch`, seq, embed].
fn trunk(
    a: &Arch,
    b: &mut Builder<'_>,
    p: &Values,
    inputs: &Inputs,
    tokens: ValueId,
    callee: &str,
) -> Result<ValueId> {
    b.at(&a.loc("hidden_size"));
    let table = p.need("gpt_neox.embed_in.weight")?;
    let mut x = b.one("gather", &[table, tokens], Attrs::new())?;
    if matches!(a.positions, Positions::Learned { .. }) {
        b.at(&a.loc("pos_emb"));
        let slice = Attrs::new()
            .with("dim", Attr::Str("position".into()))
            .with("start", Attr::Int(0))
            .with("size", Attr::Int(a.seq as i64));
        let rows = b.one("slice", &[p.need("gpt_neox.embed_pos.weight")?], slice)?;
        let rename = Attrs::new()
            .with("from", Attr::Str("position".into()))
            .with("to", Attr::Str("seq".into()));
        let rows = b.one("rename", &[rows], rename)?;
        x = b.add(x, rows)?;
    }
    let (mut slices, mut shared) = (inputs.stacked.clone(), vec![]);
    if let Some(names) = &inputs.names {
        x = names.hidden(a, b, x, Site::Embedding)?;
        slices.push(names.layer);
        shared = names.shared();
    }
    b.at(&a.loc("num_layers"));
    let operands = [&[x], &slices[..], &shared, &inputs.tables].concat();
    let mut attrs = Attrs::new()
        .with("callee", Attr::Symbol(callee.into()))
        .with("count", Attr::Int((a.layers / a.interval()) as i64))
        .with("carried", Attr::Int(1))
        .with("sliced", Attr::Int(slices.len() as i64))
        .with("dim", Attr::Str("layer".into()));
    if let Some(group) = a.checkpoint {
        attrs.set(keys::CHECKPOINT, Attr::Int((group / a.interval()).max(1) as i64));
    }
    b.one("repeat", &operands, attrs)
}

/// Declares all parameters; returns the outer ones by name and the stacked ones in block order.
fn declare(a: &Arch, f: &mut Function) -> (Values, Vec<ValueId>) {
    let outer = outer_params(a)
        .iter()
        .map(|p| {
            let short = p.short().replace("gpt_neox_", "");
            (p.name, f.add_param(&short, p.ty(), p.attrs(a, p.name)))
        })
        .collect();
    let mut stacked = vec![];
    let turn = a.interval();
    for position in 0..turn {
        let number = match turn {
            1 => "{layer}".to_string(),
            _ => format!("{{layer*{turn}+{position}}}"),
        };
        for p in block_params(a, position) {
            let full = format!("gpt_neox.layers.{number}.{}", p.name);
            let ty = p.ty().stacked(Dim::new("layer", a.layers / turn));
            let name = format!("layers_{}", short_at(a, &p, position));
            stacked.push(f.add_param(&name, ty, p.attrs(a, &full)));
        }
    }
    (Values(outer), stacked)
}

fn batch_param(f: &mut Function, name: &str, ty: TensorType) -> ValueId {
    let attrs = Attrs::new()
        .with(keys::ROLE, Attr::Str("batch".into()))
        .with(keys::NAME, Attr::Str(name.into()));
    f.add_param(name, ty, attrs)
}

fn declare_tables(a: &Arch, f: &mut Function) -> Vec<ValueId> {
    table_types(a, a.seq)
        .into_iter()
        .map(|(name, ty)| {
            let attrs = Attrs::new()
                .with(keys::ROLE, Attr::Str("const".into()))
                .with(keys::NAME, Attr::Str(name.into()));
            f.add_param(name, ty, attrs)
        })
        .collect()
}

fn final_norm(a: &Arch, b: &mut Builder<'_>, p: &Values, x: ValueId) -> Result<ValueId> {
    b.at(&a.loc("layernorm_epsilon"));
    let weight = p.need("gpt_neox.final_layer_norm.weight")?;
    layers::layer_norm(b, x, weight, p.get("gpt_neox.final_layer_norm.bias"), "embed", a.eps)
}

fn head(a: &Arch, b: &mut Builder<'_>, p: &Values, x: ValueId) -> Result<ValueId> {
    b.at(&a.loc("no_weight_tying"));
    let weight = if a.tied { "gpt_neox.embed_in.weight" } else { "embed_out.weight" };
    let weight = p.need(weight)?;
    b.matmul(x, weight, &["embed"])
}

/// `@loss`, or without dropout `@eval_step`: sum(loss · mask) / sum(mask) over one micro-batch; 0 where
/// everything is masked.
fn loss(a: &Arch, module: &Module, name: &str, layer: &str, trains: bool) -> Result<Function> {
    let mut f = Function::new(name);
    f.attrs.set(keys::GRAD_ACCUM, Attr::Int(a.grad_accum as i64));
    let (p, stacked) = declare(a, &mut f);
    let dims = vec![Dim::new("batch", a.batch), Dim::new("seq", a.seq)];
    let ids = TensorType::new(DType::I32, dims.clone());
    let tokens = batch_param(&mut f, "tokens", ids.clone());
    let labels = batch_param(&mut f, "labels", ids);
    let mask = batch_param(&mut f, "mask", TensorType::new(DType::F32, dims));
    let tables = declare_tables(a, &mut f);
    let names = (trains && dropout::drops(a))
        .then(|| Names::declare(a, &mut f, Some(a.layers / a.interval())));
    let inputs = Inputs { stacked, tables, names };
    let b = &mut Builder::with_module(&mut f, module);
    let x = trunk(a, b, &p, &inputs, tokens, layer)?;
    let x = final_norm(a, b, &p, x)?;
    let logits = head(a, b, &p, x)?;
    b.at(&a.loc("seq_length"));
    let dim = Attrs::new().with("dim", Attr::Str("vocab".into()));
    let losses = b.named("cross_entropy", &[logits, labels], dim)?[0];
    let masked = b.mul(losses, mask)?;
    f.results = vec![mean(a, b, masked, mask)?];
    Output::set(&mut f, &[Output::Port("loss".into())]);
    Ok(f)
}

/// The mean of `x` over the tokens of a group that `mask` counts; of several groups the mean of that.
fn mean(a: &Arch, b: &mut Builder<'_>, x: ValueId, mask: ValueId) -> Result<ValueId> {
    let one = b.scalar(1.0)?;
    if a.groups == 1 {
        let total = b.reduce_sum(x, &["batch", "seq"])?;
        let count = b.reduce_sum(mask, &["batch", "seq"])?;
        let count = b.one("maximum", &[count, one], Attrs::new())?;
        return b.div(total, count);
    }
    let dims = [("group", a.groups), ("sample", a.batch / a.groups), ("seq", a.seq)];
    let dims = dims.map(|(name, size)| Dim::new(name, size));
    let mut sum = |v| {
        let grouped = b.reshape(v, &dims)?;
        b.reduce_sum(grouped, &["sample", "seq"])
    };
    let (total, count) = (sum(x)?, sum(mask)?);
    let count = b.one("maximum", &[count, one], Attrs::new())?;
    let means = b.div(total, count)?;
    let sum = b.reduce_sum(means, &["group"])?;
    let share = b.scalar(1.0 / a.groups as f64)?;
    b.mul(sum, share)
}

/// `@logits`: one sequence, the logits at position `last`: [pick = 1, vocab].
fn logits(a: &Arch, module: &Module) -> Result<Function> {
    let mut f = Function::new("logits");
    let (p, stacked) = declare(a, &mut f);
    let ids = |dims: Vec<Dim>| TensorType::new(DType::I32, dims);
    let tokens =
        batch_param(&mut f, "tokens", ids(vec![Dim::new("batch", 1), Dim::new("seq", a.seq)]));
    let last = batch_param(&mut f, "last", ids(vec![Dim::new("pick", 1)]));
    let inputs = Inputs { stacked, tables: declare_tables(a, &mut f), names: None };
    let b = &mut Builder::with_module(&mut f, module);
    let x = trunk(a, b, &p, &inputs, tokens, "logits.block")?;
    let rows = b.reshape(x, &[Dim::new("seq", a.seq), Dim::new("embed", a.embed)])?;
    let row = b.one("gather", &[rows, last], Attrs::new())?;
    let row = final_norm(a, b, &p, row)?;
    let out = head(a, b, &p, row)?;
    f.results = vec![out];
    Output::set(&mut f, &[Output::Port("logits".into())]);
    Ok(f)
}

/// `@decode`: the logits behind one token at place `count` of a sequence, and its keys and values, from the keys and
/// values of the `count` tokens before it. A model with experts has none: which token goes where is decided
/// over a sequence.
fn decode(a: &Arch, module: &Module) -> Result<Function> {
    let mut f = Function::new("decode");
    let (p, stacked) = declare(a, &mut f);
    let ids = |dims: Vec<Dim>| TensorType::new(DType::I32, dims);
    let place = vec![Dim::new("seq", 1)];
    let tokens = batch_param(&mut f, "tokens", ids(vec![Dim::new("batch", 1), Dim::new("seq", 1)]));
    let count = batch_param(&mut f, "count", ids(place));
    let cache = |name: &str, f: &mut Function| {
        let attrs = Attrs::new()
            .with(keys::ROLE, Attr::Str("cache".into()))
            .with(keys::NAME, Attr::Str(name.into()));
        f.add_param(name, kept(a).stacked(Dim::new("layer", a.layers)), attrs)
    };
    let (keys, values) = (cache("keys", &mut f), cache("values", &mut f));
    let tables = declare_tables(a, &mut f);
    let b = &mut Builder::with_module(&mut f, module);
    b.at(&a.loc("hidden_size"));
    let mut x = b.one("gather", &[p.need("gpt_neox.embed_in.weight")?, tokens], Attrs::new())?;
    if matches!(a.positions, Positions::Learned { .. }) {
        b.at(&a.loc("pos_emb"));
        let table = p.need("gpt_neox.embed_pos.weight")?;
        let row = b.one("gather", &[table, count], Attrs::new())?;
        x = b.add(x, row)?;
    }
    b.at(&a.loc("rotary_pct"));
    let mut rows = vec![];
    for table in tables {
        rows.push(b.one("gather", &[table, count], Attrs::new())?);
    }
    b.at(&a.loc("num_layers"));
    let operands = [&[x], &stacked[..], &[keys, values, count], &rows].concat();
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol("decode.block".into()))
        .with("count", Attr::Int(a.layers as i64))
        .with("carried", Attr::Int(1))
        .with("sliced", Attr::Int(stacked.len() as i64 + 2))
        .with("dim", Attr::Str("layer".into()));
    let made = b.named("repeat", &operands, attrs)?;
    let row = b.reshape(made[0], &[Dim::new("pick", 1), Dim::new("embed", a.embed)])?;
    let row = final_norm(a, b, &p, row)?;
    let out = head(a, b, &p, row)?;
    f.results = vec![out, made[1], made[2]];
    let [keys, values] = ["keys", "values"].map(|name| Output::Cache(name.into()));
    Output::set(&mut f, &[Output::Port("logits".into()), keys, values]);
    Ok(f)
}

/// `@setup`: the rotary tables, and the numbers that dropout knows columns, keys and heads by.
fn setup(a: &Arch) -> Result<Option<Function>> {
    let mut f = Function::new("setup");
    let b = &mut Builder::new(&mut f);
    let mut results = vec![];
    if let Positions::Rotary { dims, base } = a.positions {
        b.at(&a.loc("rotary_pct"));
        let attrs = Attrs::new()
            .with("seq_size", Attr::Int(a.seq as i64))
            .with("rot", Attr::Int(dims as i64))
            .with("base", Attr::Float(base));
        results = b.named("rotary_table", &[], attrs)?;
    }
    for (_, dim, size) in dropout::constants(a) {
        let attrs =
            Attrs::new().with("dim", Attr::Str(dim.into())).with("size", Attr::Int(size as i64));
        results.push(b.one("iota", &[], attrs)?);
    }
    f.results = results;
    Ok((!f.results.is_empty()).then_some(f))
}

/// The Model phase of a GPT-NeoX architecture.
pub fn build(a: &Arch) -> Result<Module> {
    if !a.layers.is_multiple_of(a.interval()) {
        return Err(OpError::new("periods of layers of several kinds do not divide the layers"));
    }
    let mut module = Module::new();
    if a.precision != DType::F32 {
        module.attrs.set(keys::PRECISION, Attr::Str(a.precision.name().into()));
    }
    module.insert(block(a, "block", Use::Train)?);
    module.insert(block(a, "logits.block", Use::Generate)?);
    let f = loss(a, &module, "loss", "block", true)?;
    module.insert(f);
    if dropout::drops(a) || a.moe.is_some_and(|m| m.trains_apart()) {
        // Otherwise the loss is its own evaluation.
        module.insert(block(a, "eval.block", Use::Evaluate)?);
        let f = loss(a, &module, "eval_step", "eval.block", false)?;
        module.insert(f);
    }
    let f = logits(a, &module)?;
    module.insert(f);
    if a.moe.is_none() {
        module.insert(block(a, "decode.block", Use::Decode)?);
        let f = decode(a, &module)?;
        module.insert(f);
    }
    if let Some(f) = setup(a)? {
        module.insert(f);
    }
    Ok(module)
}
