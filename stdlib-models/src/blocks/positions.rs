//! How positions enter a model: rotary tables for the layers, or rows added to the embedding.

use neoxc_ir::{Attr, Attrs, Builder, OpKind, TensorType, ValueId};

use super::Result;
use crate::arch::{Arch, Positions, RopeScaling};
use crate::param::Values;

/// The rotary tables of `seq` places, name and type of each: cos and sin, [seq, rot].
pub fn table_types(a: &Arch, seq: usize) -> Vec<(&'static str, TensorType)> {
    match a.positions {
        Positions::Rotary { dims, .. } => {
            let ty = TensorType::f32(&[("seq", seq), ("rot", dims / 2)]);
            vec![("rotary_cos", ty.clone()), ("rotary_sin", ty)]
        }
        _ => vec![],
    }
}

/// The values of the rotary tables, made by `@setup`; none where positions are not rotary.
pub fn tables(a: &Arch, b: &mut Builder<'_>) -> Result<Vec<ValueId>> {
    let Positions::Rotary { dims, base, scaling } = a.positions else { return Ok(vec![]) };
    b.at(&a.loc(if scaling.is_some() { "rope_scaling" } else { "rotary_pct" }));
    let mut attrs = Attrs::new()
        .with("seq_size", Attr::Int(a.seq as i64))
        .with("rot", Attr::Int(dims as i64))
        .with("base", Attr::Float(base));
    if let Some(scaling) = scaling {
        scale(&mut attrs, scaling);
    }
    b.op(OpKind::RotaryTable, &[], attrs)
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

/// `x` [batch, seq, embed] with the learned rows of its positions added: those of the whole sequence, or the one
/// of `place` [seq = 1].
pub fn add_learned(
    a: &Arch,
    b: &mut Builder<'_>,
    p: &Values,
    x: ValueId,
    place: Option<ValueId>,
) -> Result<ValueId> {
    if !matches!(a.positions, Positions::Learned { .. }) {
        return Ok(x);
    }
    b.at(&a.loc("pos_emb"));
    let table = p.need("positions.weight")?;
    let rows = match place {
        Some(place) => b.one(OpKind::Gather, &[table, place], Attrs::new())?,
        None => {
            let slice = Attrs::new()
                .with("dim", Attr::Str("position".into()))
                .with("start", Attr::Int(0))
                .with("size", Attr::Int(a.seq as i64));
            let rows = b.one(OpKind::Slice, &[table], slice)?;
            let rename = Attrs::new()
                .with("from", Attr::Str("position".into()))
                .with("to", Attr::Str("seq".into()));
            b.one(OpKind::Rename, &[rows], rename)?
        }
    };
    b.add(x, rows)
}
