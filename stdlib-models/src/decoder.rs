//! The decoder around the layers of any family.
//!
//! [`build`] gives the Model phase: `@loss` (one micro-batch), `@logits` (one sequence, one
//! position), `@decode` (one token behind others whose keys and values are kept), `@block`, `@decode.block` and
//! `@logits.block` (one layer, or the layers of one period where they are of
//! several kinds), `@setup` (rotary tables); `@eval_step` with `@eval.block` where evaluation computes
//! something else than training.

use neoxc_ir::op::OpError;
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, Output, TensorType, ValueId, keys,
};

use crate::arch::Arch;
use crate::blocks::attention::{Past, kept};
use crate::blocks::dropout::{self, Names, Site};
use crate::blocks::transformer::Layer;
use crate::blocks::{Result, norms, positions};
use crate::families::{self, Family};
use crate::param::{Param, Values};

/// What a function is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A micro-batch whose loss is differentiated.
    Train,
    /// A micro-batch whose loss is measured.
    Evaluate,
    /// One sequence.
    Generate,
    /// One token of one sequence.
    Decode,
}

/// The name of a parameter of layer `position` of a period within the function of that period.
fn short_at(p: &Param, position: usize, period: usize) -> String {
    match period {
        1 => p.short(),
        _ => format!("at{position}_{}", p.short()),
    }
}

/// What the keys and the values that are kept of each layer of a period are called.
fn cache_names(period: usize) -> impl Iterator<Item = [String; 2]> {
    let name = move |what: &str, position| match period {
        1 => what.to_string(),
        _ => format!("{what}_{position}"),
    };
    (0..period).map(move |position| ["keys", "values"].map(|what| name(what, position)))
}

/// The layers of one period for sequences of shape [`batch`, seq].
fn block(a: &Arch, family: &dyn Family, name: &str, what: Use) -> Result<Function> {
    let single = matches!(what, Use::Generate | Use::Decode);
    let batch = if single { 1 } else { a.batch };
    let seq = if what == Use::Decode { 1 } else { a.seq };
    let mut f = Function::new(name);
    let stream = TensorType::f32(&[("batch", batch), ("seq", seq), ("embed", a.embed)]);
    let mut x = f.add_param("x", stream, Attrs::new());
    let period = a.period();
    let parameters: Vec<Values> = period
        .iter()
        .enumerate()
        .map(|(position, kind)| {
            let add = |p: &Param| {
                let name = short_at(p, position, period.len());
                (p.role, f.add_param(&name, p.ty(), Attrs::new()))
            };
            Values(family.of_layer(a, *kind).iter().map(add).collect())
        })
        .collect();
    let drops = what == Use::Train && dropout::drops(a);
    let names = drops.then(|| Names::declare(a, &mut f, None));
    let past: Vec<Past> = match what {
        Use::Decode => {
            let mut keep = |name: String| f.add_param(&name, kept(a), Attrs::new());
            let kept: Vec<_> =
                cache_names(period.len()).map(|of_layer| of_layer.map(&mut keep)).collect();
            let count = TensorType::new(DType::I32, vec![Dim::new("seq", 1)]);
            let count = f.add_param("count", count, Attrs::new());
            kept.into_iter().map(|[keys, values]| Past { keys, values, count }).collect()
        }
        _ => vec![],
    };
    let tables = positions::table_types(a, seq);
    let tables: Vec<ValueId> =
        tables.into_iter().map(|(n, ty)| f.add_param(n, ty, Attrs::new())).collect();
    let b = &mut Builder::new(&mut f);
    let mut own = vec![];
    for (position, (kind, parameters)) in period.iter().zip(&parameters).enumerate() {
        let names = names.as_ref().map(|n| n.at(position));
        let (tables, past) = (positions::of_kind(a, &tables, *kind), past.get(position));
        let l = Layer { kind: *kind, parameters, tables, names: names.as_ref(), past, what };
        let made = family.layer(a, b, &l, x)?;
        x = made.0;
        own.extend(past.map(|_| made.1).into_iter().flatten());
    }
    f.results = vec![x];
    f.results.extend(own);
    Ok(f)
}

/// What the layers need besides the stream.
struct Inputs {
    stacked: Vec<ValueId>,
    tables: Vec<ValueId>,
    /// Where elements are dropped.
    names: Option<Names>,
}

/// The rows of the embedding, scaled where the model says so (Vaswani et al. 2017, section 3.4; Gemma).
fn embedded(a: &Arch, b: &mut Builder<'_>, x: ValueId) -> Result<ValueId> {
    if a.embedding_scale == 1.0 {
        return Ok(x);
    }
    b.at(&a.loc("embedding_scale"));
    let scale = b.scalar(a.embedding_scale)?;
    b.mul(x, scale)
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
    let x = b.one(OpKind::Gather, &[p.need("embed.weight")?, tokens], Attrs::new())?;
    let x = embedded(a, b, x)?;
    let mut x = positions::add(a, b, p, &inputs.tables, x, None)?;
    let (mut slices, mut shared) = (inputs.stacked.clone(), vec![]);
    if let Some(names) = &inputs.names {
        x = names.hidden(a, b, x, Site::Embedding)?;
        slices.push(names.layer);
        shared = names.shared();
    }
    b.at(&a.loc("num_layers"));
    let period = a.period().len();
    let operands = [&[x], &slices[..], &shared, positions::of_layers(a, &inputs.tables)].concat();
    let mut attrs = Attrs::new()
        .with("callee", Attr::Symbol(callee.into()))
        .with("count", Attr::Int((a.layers / period) as i64))
        .with("carried", Attr::Int(1))
        .with("sliced", Attr::Int(slices.len() as i64))
        .with("dim", Attr::Str("layer".into()));
    if let Some(group) = a.checkpoint {
        attrs.set(keys::CHECKPOINT, Attr::Int((group / period).max(1) as i64));
    }
    b.one(OpKind::Repeat, &operands, attrs)
}

/// Every parameter's declaration with its logical name: those outside the layers, then of each layer of a period
/// the stack over all periods. `{layer*k+i}` in a name stands for layer k·n+i of stack element n.
pub fn parameters(a: &Arch, family: &dyn Family) -> Vec<(String, Option<usize>, Param)> {
    let outer = family.outer(a).into_iter().map(|p| (p.name.to_string(), None, p));
    let period = a.period();
    let stacked = period.iter().enumerate().flat_map(|(position, kind)| {
        let number = match period.len() {
            1 => "{layer}".to_string(),
            n => format!("{{layer*{n}+{position}}}"),
        };
        let at = format!("{}{}.{number}.", family.prefix(), family.layers());
        let params = family.of_layer(a, *kind).into_iter();
        params.map(move |p| (format!("{at}{}", p.name), Some(position), p))
    });
    outer.chain(stacked).collect()
}

/// Declares all parameters; returns the outer ones by role and the stacked ones in block order.
fn declare(a: &Arch, family: &dyn Family, f: &mut Function) -> (Values, Vec<ValueId>) {
    let (mut outer, mut stacked) = (Values::default(), vec![]);
    let period = a.period().len();
    let prefix = family.prefix().replace('.', "_");
    for (name, position, p) in parameters(a, family) {
        let attrs = p.attrs(&name);
        match position {
            None => {
                let short = p.short();
                let short = short.strip_prefix(&prefix).unwrap_or(&short);
                outer.0.push((p.role, f.add_param(short, p.ty(), attrs)));
            }
            Some(position) => {
                let ty = p.ty().stacked(Dim::new("layer", a.layers / period));
                let short = format!("layers_{}", short_at(&p, position, period));
                stacked.push(f.add_param(&short, ty, attrs));
            }
        }
    }
    (outer, stacked)
}

fn batch_param(f: &mut Function, name: &str, ty: TensorType) -> ValueId {
    let attrs = Attrs::new()
        .with(keys::ROLE, Attr::Str("batch".into()))
        .with(keys::NAME, Attr::Str(name.into()));
    f.add_param(name, ty, attrs)
}

fn declare_tables(a: &Arch, f: &mut Function) -> Vec<ValueId> {
    positions::entry_types(a)
        .into_iter()
        .map(|(name, ty)| {
            let attrs = Attrs::new()
                .with(keys::ROLE, Attr::Str("const".into()))
                .with(keys::NAME, Attr::Str(name.into()));
            f.add_param(name, ty, attrs)
        })
        .collect()
}

fn head(a: &Arch, b: &mut Builder<'_>, p: &Values, x: ValueId) -> Result<ValueId> {
    b.at(&a.loc("no_weight_tying"));
    let weight = p.need(if a.tied { "embed.weight" } else { "head.weight" })?;
    b.matmul(x, weight, &["embed"])
}

/// `@loss`, or without dropout `@eval_step`: sum(loss · mask) / sum(mask) over one micro-batch; 0 where
/// everything is masked.
fn loss(a: &Arch, family: &dyn Family, module: &Module, trains: bool) -> Result<Function> {
    let (name, layer) = if trains { ("loss", "block") } else { ("eval_step", "eval.block") };
    let mut f = Function::new(name);
    f.attrs.set(keys::GRAD_ACCUM, Attr::Int(a.grad_accum as i64));
    let (p, stacked) = declare(a, family, &mut f);
    let dims = vec![Dim::new("batch", a.batch), Dim::new("seq", a.seq)];
    let ids = TensorType::new(DType::I32, dims.clone());
    let tokens = batch_param(&mut f, "tokens", ids.clone());
    let labels = batch_param(&mut f, "labels", ids);
    let mask = batch_param(&mut f, "mask", TensorType::new(DType::F32, dims));
    let tables = declare_tables(a, &mut f);
    let names = (trains && dropout::drops(a))
        .then(|| Names::declare(a, &mut f, Some(a.layers / a.period().len())));
    let inputs = Inputs { stacked, tables, names };
    let b = &mut Builder::with_module(&mut f, module);
    let x = trunk(a, b, &p, &inputs, tokens, layer)?;
    let x = norms::norm(a, b, &p, x, "final_norm")?;
    let logits = head(a, b, &p, x)?;
    b.at(&a.loc("seq_length"));
    let dim = Attrs::new().with("dim", Attr::Str("vocab".into()));
    let losses = b.op(OpKind::CrossEntropy, &[logits, labels], dim)?[0];
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
        let count = b.one(OpKind::Maximum, &[count, one], Attrs::new())?;
        return b.div(total, count);
    }
    let dims = [("group", a.groups), ("sample", a.batch / a.groups), ("seq", a.seq)];
    let dims = dims.map(|(name, size)| Dim::new(name, size));
    let mut sum = |v| {
        let grouped = b.reshape(v, &dims)?;
        b.reduce_sum(grouped, &["sample", "seq"])
    };
    let (total, count) = (sum(x)?, sum(mask)?);
    let count = b.one(OpKind::Maximum, &[count, one], Attrs::new())?;
    let means = b.div(total, count)?;
    let sum = b.reduce_sum(means, &["group"])?;
    let share = b.scalar(1.0 / a.groups as f64)?;
    b.mul(sum, share)
}

/// `@logits`: one sequence, the logits at position `last`: [pick = 1, vocab].
fn logits(a: &Arch, family: &dyn Family, module: &Module) -> Result<Function> {
    let mut f = Function::new("logits");
    let (p, stacked) = declare(a, family, &mut f);
    let ids = |dims: Vec<Dim>| TensorType::new(DType::I32, dims);
    let tokens =
        batch_param(&mut f, "tokens", ids(vec![Dim::new("batch", 1), Dim::new("seq", a.seq)]));
    let last = batch_param(&mut f, "last", ids(vec![Dim::new("pick", 1)]));
    let inputs = Inputs { stacked, tables: declare_tables(a, &mut f), names: None };
    let b = &mut Builder::with_module(&mut f, module);
    let x = trunk(a, b, &p, &inputs, tokens, "logits.block")?;
    let rows = b.reshape(x, &[Dim::new("seq", a.seq), Dim::new("embed", a.embed)])?;
    let row = b.one(OpKind::Gather, &[rows, last], Attrs::new())?;
    let row = norms::norm(a, b, &p, row, "final_norm")?;
    let out = head(a, b, &p, row)?;
    f.results = vec![out];
    Output::set(&mut f, &[Output::Port("logits".into())]);
    Ok(f)
}

/// `@decode`: the logits behind one token at place `count` of a sequence, and its keys and values, from the keys and
/// values of the `count` tokens before it, which are kept by the layers of a period. A model with experts has none: which token goes where is decided
/// over a sequence.
fn decode(a: &Arch, family: &dyn Family, module: &Module) -> Result<Function> {
    let mut f = Function::new("decode");
    let period = a.period().len();
    let (p, stacked) = declare(a, family, &mut f);
    let ids = |dims: Vec<Dim>| TensorType::new(DType::I32, dims);
    let place = vec![Dim::new("seq", 1)];
    let tokens = batch_param(&mut f, "tokens", ids(vec![Dim::new("batch", 1), Dim::new("seq", 1)]));
    let count = batch_param(&mut f, "count", ids(place));
    let cache = |name: &str, f: &mut Function| {
        let attrs = Attrs::new()
            .with(keys::ROLE, Attr::Str("cache".into()))
            .with(keys::NAME, Attr::Str(name.into()));
        f.add_param(name, kept(a).stacked(Dim::new("layer", a.layers / period)), attrs)
    };
    let names: Vec<String> = cache_names(period).flatten().collect();
    let caches: Vec<ValueId> = names.iter().map(|name| cache(name, &mut f)).collect();
    let tables = declare_tables(a, &mut f);
    let b = &mut Builder::with_module(&mut f, module);
    b.at(&a.loc("hidden_size"));
    let x = b.one(OpKind::Gather, &[p.need("embed.weight")?, tokens], Attrs::new())?;
    let x = embedded(a, b, x)?;
    let x = positions::add(a, b, &p, &tables, x, Some(count))?;
    b.at(&a.loc("rotary_pct"));
    let mut rows = vec![];
    for table in positions::of_layers(a, &tables) {
        rows.push(b.one(OpKind::Gather, &[*table, count], Attrs::new())?);
    }
    b.at(&a.loc("num_layers"));
    let operands = [&[x], &stacked[..], &caches, &[count], &rows].concat();
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol("decode.block".into()))
        .with("count", Attr::Int((a.layers / period) as i64))
        .with("carried", Attr::Int(1))
        .with("sliced", Attr::Int((stacked.len() + caches.len()) as i64))
        .with("dim", Attr::Str("layer".into()));
    let made = b.op(OpKind::Repeat, &operands, attrs)?;
    let row = b.reshape(made[0], &[Dim::new("pick", 1), Dim::new("embed", a.embed)])?;
    let row = norms::norm(a, b, &p, row, "final_norm")?;
    let out = head(a, b, &p, row)?;
    f.results = [&[out], &made[1..]].concat();
    let kept = names.into_iter().map(Output::Cache);
    let outputs: Vec<Output> = [Output::Port("logits".into())].into_iter().chain(kept).collect();
    Output::set(&mut f, &outputs);
    Ok(f)
}

/// `@setup`: the rotary tables, and the numbers that dropout knows columns, keys and heads by.
fn setup(a: &Arch) -> Result<Option<Function>> {
    let mut f = Function::new("setup");
    let b = &mut Builder::new(&mut f);
    let mut results = positions::tables(a, b)?;
    for (_, dims) in dropout::constants(a) {
        let size: usize = dims.iter().map(|d| d.size).product();
        let attrs = Attrs::new()
            .with("dim", Attr::Str(dims[0].name.to_string()))
            .with("size", Attr::Int(size as i64));
        let numbers = b.one(OpKind::Iota, &[], attrs)?;
        results.push(if dims.len() > 1 { b.reshape(numbers, &dims)? } else { numbers });
    }
    f.results = results;
    Ok((!f.results.is_empty()).then_some(f))
}

/// The Model phase of an architecture.
///
/// # Errors
/// If the architecture's sizes do not fit together.
pub fn build(a: &Arch) -> Result<Module> {
    let family = families::of(a);
    if a.layers == 0 {
        return Err(OpError::new("a model has at least one layer"));
    }
    let mut module = Module::new();
    if a.precision != DType::F32 {
        module.attrs.set(keys::PRECISION, Attr::Str(a.precision.name().into()));
    }
    module.insert(block(a, family, "block", Use::Train)?);
    module.insert(block(a, family, "logits.block", Use::Generate)?);
    let f = loss(a, family, &module, true)?;
    module.insert(f);
    if dropout::drops(a) || a.moe.is_some_and(|m| m.trains_apart()) {
        // Otherwise the loss is its own evaluation.
        module.insert(block(a, family, "eval.block", Use::Evaluate)?);
        let f = loss(a, family, &module, false)?;
        module.insert(f);
    }
    let f = logits(a, family, &module)?;
    module.insert(f);
    if a.moe.is_none() {
        module.insert(block(a, family, "decode.block", Use::Decode)?);
        let f = decode(a, family, &module)?;
        module.insert(f);
    }
    if let Some(f) = setup(a)? {
        module.insert(f);
    }
    Ok(module)
}
