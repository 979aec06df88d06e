//! One layer of a transformer: attention, and an MLP or experts, each with a norm before it, after it or both, in the
//! sequential or in the parallel form.

use neoxc_ir::{Builder, ValueId};

use super::attention::{self, Past};
use super::dropout::{Names, Site};
use super::experts::{self, Experts};
use super::norms::norm;
use super::{Result, mlp};
use crate::arch::{Arch, LayerKind, Moe};
use crate::decoder::Use;
use crate::param::Values;

/// What a layer is given beside the stream.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// What the layer is made of.
    pub kind: LayerKind,
    /// Its parameters.
    pub parameters: &'a Values,
    /// cos and sin of rotary positions, [seq, rot], where there are any.
    pub tables: &'a [ValueId],
    /// What names the elements that are dropped, where any are.
    pub names: Option<&'a Names>,
    /// The tokens before, if they are not in the stream.
    pub past: Option<&'a Past>,
    /// What the layer's function is for.
    pub what: Use,
}

/// One layer on `x` [batch, seq, embed]; also its keys and values.
pub fn layer(
    a: &Arch,
    b: &mut Builder<'_>,
    l: &Layer<'_>,
    x: ValueId,
) -> Result<(ValueId, [ValueId; 2])> {
    let p = l.parameters;
    let drop = |b: &mut Builder<'_>, x, site| match l.names {
        Some(names) => names.hidden(a, b, x, site),
        None => Ok(x),
    };
    let (before, after) = (a.norm_place.before(), a.norm_place.after());
    let normal = if before { norm(a, b, p, x, "norm")? } else { x };
    let (attended, own) = attention::branch(a, b, l, normal)?;
    let attended = if after { norm(a, b, p, attended, "out_norm")? } else { attended };
    let attended = drop(b, attended, Site::Attention)?;

    b.at(&a.loc("gpt_j_residual"));
    let middle = if a.parallel_residual { x } else { b.add(x, attended)? };
    let normal = match () {
        () if !before => middle,
        () if a.shared_norm => normal,
        () => norm(a, b, p, middle, "mlp_norm")?,
    };

    let out = match a.moe.as_ref().filter(|_| l.kind.experts) {
        Some(m) => of_experts(a, b, m, l, normal)?,
        None => mlp::mlp(a, b, p, normal)?,
    };
    let out = if after { norm(a, b, p, out, "mlp_out_norm")? } else { out };
    let out = drop(b, out, Site::Mlp)?;

    b.at(&a.loc("gpt_j_residual"));
    let branches = if a.parallel_residual { b.add(out, attended)? } else { out };
    Ok((b.add(branches, middle)?, own))
}

fn of_experts(
    a: &Arch,
    b: &mut Builder<'_>,
    m: &Moe,
    l: &Layer<'_>,
    x: ValueId,
) -> Result<ValueId> {
    let p = l.parameters;
    let e = Experts {
        router: p.need("router.weight")?,
        up: p.need("experts.up.weight")?,
        up_bias: p.get("experts.up.bias"),
        gate: a.gated.then(|| p.need("experts.gate.weight")).transpose()?,
        gate_bias: p.get("experts.gate.bias"),
        down: p.need("experts.down.weight")?,
        down_bias: p.get("experts.down.bias"),
    };
    let groups = if l.what == Use::Generate { 1 } else { a.groups };
    experts::mlp(b, a, m, e, x, groups, l.what == Use::Train)
}
