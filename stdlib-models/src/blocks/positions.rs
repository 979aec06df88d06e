//! How positions enter a model: rotary tables for the layers, or rows, learned or of sines, added to the embedding.

use neoxc_ir::{Attr, Attrs, Builder, OpKind, TensorType, ValueId};

use super::Result;
use crate::arch::{Arch, Attention, LayerKind, Positions, RopeScaling};
use crate::param::Values;

/// A way in which heads rotate, which has a table of cosines and one of sines.
#[derive(Debug, Clone, Copy)]
struct Rotation {
    /// What layers have it; none for all.
    of: Option<Attention>,
    /// The names of its tables.
    names: [&'static str; 2],
    /// The key that it comes from.
    key: &'static str,
    /// Rotary dims per head, even.
    dims: usize,
    /// Frequency base.
    base: f64,
    /// How frequencies are scaled, if they are.
    scaling: Option<RopeScaling>,
}

/// The rotations of a model's layers.
fn rotations(a: &Arch) -> Vec<Rotation> {
    let Positions::Rotary { dims, base, scaling } = a.positions else { return vec![] };
    let key = if scaling.is_some() { "rope_scaling" } else { "rotary_pct" };
    let names = ["rotary_cos", "rotary_sin"];
    let of_all = Rotation { of: None, names, key, dims, base, scaling };
    let Some(base) = a.sliding_base else { return vec![of_all] };
    let of_windows = Rotation {
        of: Some(Attention::Sliding),
        names: ["sliding_cos", "sliding_sin"],
        key: "sliding_rotary_emb_base",
        base,
        scaling: None,
        ..of_all
    };
    let both = [Rotation { of: Some(Attention::Global), ..of_all }, of_windows];
    let used = |r: &Rotation| a.kinds().iter().any(|kind| Some(kind.attention) == r.of);
    both.into_iter().filter(used).collect()
}

/// The rotary tables of `seq` places, name and type of each: cos and sin, [seq, rot], of each rotation.
pub fn table_types(a: &Arch, seq: usize) -> Vec<(&'static str, TensorType)> {
    let types = |r: Rotation| {
        let ty = TensorType::f32(&[("seq", seq), ("rot", r.dims / 2)]);
        r.names.map(|name| (name, ty.clone()))
    };
    rotations(a).into_iter().flat_map(types).collect()
}

/// The two of the tables of [`table_types`] that a layer of the kind `kind` rotates by.
pub fn of_kind<'t>(a: &Arch, tables: &'t [ValueId], kind: LayerKind) -> &'t [ValueId] {
    let fits = |r: &Rotation| r.of.is_none_or(|of| of == kind.attention);
    match rotations(a).iter().position(fits) {
        Some(n) => &tables[2 * n..2 * n + 2],
        None => &[],
    }
}

/// The values of [`entry_types`], made by `@setup`.
pub fn tables(a: &Arch, b: &mut Builder<'_>) -> Result<Vec<ValueId>> {
    if a.positions == Positions::Sinusoidal {
        return Ok(vec![sinusoids(a, b)?]);
    }
    let mut all = vec![];
    for r in rotations(a) {
        b.at(&a.loc(r.key));
        let mut attrs = Attrs::new()
            .with("seq_size", Attr::Int(a.seq as i64))
            .with("rot", Attr::Int(r.dims as i64))
            .with("base", Attr::Float(r.base));
        if let Some(scaling) = r.scaling {
            scale(&mut attrs, scaling);
        }
        all.extend(b.op(OpKind::RotaryTable, &[], attrs)?);
    }
    Ok(all)
}

/// A scaling as attributes of `neox.rotary_table`.
fn scale(attrs: &mut Attrs, scaling: RopeScaling) {
    attrs.set("scaling", Attr::Str(scaling.name().into()));
    let mut number = |name: &str, x: f64| attrs.set(name, Attr::Float(x));
    match scaling {
        RopeScaling::Linear { factor } | RopeScaling::Ntk { factor } => number("factor", factor),
        RopeScaling::Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        } => {
            number("factor", factor);
            number("original", original as f64);
            number("fast", beta_fast);
            number("slow", beta_slow);
            number("amplitude", attention_factor);
            attrs.set("truncate", Attr::Bool(truncate));
        }
        RopeScaling::Llama3 { factor, original, low_freq_factor, high_freq_factor } => {
            number("factor", factor);
            number("original", original as f64);
            number("slow", low_freq_factor);
            number("fast", high_freq_factor);
        }
    }
}

/// The tables of an entry: those of its layers, or the one that is added to the embedding.
pub fn entry_types(a: &Arch) -> Vec<(&'static str, TensorType)> {
    match a.positions {
        Positions::Sinusoidal => {
            vec![("sinusoids", TensorType::f32(&[("seq", a.seq), ("embed", a.embed)]))]
        }
        _ => table_types(a, a.seq),
    }
}

/// Those of an entry's tables that its layers take.
pub fn of_layers<'t>(a: &Arch, tables: &'t [ValueId]) -> &'t [ValueId] {
    if a.positions == Positions::Sinusoidal { &[] } else { tables }
}

/// Sines of half of the dims, and behind them the cosines of the same angles: [seq, embed], in the order of GPT-NeoX.
fn sinusoids(a: &Arch, b: &mut Builder<'_>) -> Result<ValueId> {
    b.at(&a.loc("pos_emb"));
    let attrs = Attrs::new()
        .with("seq_size", Attr::Int(a.seq as i64))
        .with("rot", Attr::Int(a.embed as i64))
        .with("base", Attr::Float(10_000.0));
    let made = b.op(OpKind::RotaryTable, &[], attrs)?;
    let half = a.embed as i64 / 2;
    let mut place = |x: ValueId, before: i64| {
        let name = Attrs::new()
            .with("from", Attr::Str("rot".into()))
            .with("to", Attr::Str("embed".into()));
        let x = b.one(OpKind::Rename, &[x], name)?;
        let zeros = Attrs::new()
            .with("dim", Attr::Str("embed".into()))
            .with("before", Attr::Int(before))
            .with("after", Attr::Int(half - before));
        b.one(OpKind::Pad, &[x], zeros)
    };
    let (cos, sin) = (place(made[0], half)?, place(made[1], 0)?);
    b.add(sin, cos)
}

/// `x` [batch, seq, embed] with what the model adds for its positions: for those of the whole sequence, or for the one
/// of `place` [seq = 1]. `tables` are those of [`entry_types`].
pub fn add(
    a: &Arch,
    b: &mut Builder<'_>,
    p: &Values,
    tables: &[ValueId],
    x: ValueId,
    place: Option<ValueId>,
) -> Result<ValueId> {
    b.at(&a.loc("pos_emb"));
    let rows = match (a.positions, tables) {
        (Positions::Learned { .. }, _) => learned(a, b, p)?,
        (Positions::Sinusoidal, [table]) => *table,
        _ => return Ok(x),
    };
    let rows = match place {
        Some(place) => b.one(OpKind::Gather, &[rows, place], Attrs::new())?,
        None if b.ty(rows).has("seq") => rows,
        None => {
            let name = Attrs::new()
                .with("from", Attr::Str("position".into()))
                .with("to", Attr::Str("seq".into()));
            b.one(OpKind::Rename, &[rows], name)?
        }
    };
    b.add(x, rows)
}

/// The learned rows of a sequence's positions: [position = seq, embed].
fn learned(a: &Arch, b: &mut Builder<'_>, p: &Values) -> Result<ValueId> {
    let slice = Attrs::new()
        .with("dim", Attr::Str("position".into()))
        .with("start", Attr::Int(a.position_offset as i64))
        .with("size", Attr::Int(a.seq as i64));
    b.one(OpKind::Slice, &[p.need("positions.weight")?], slice)
}
