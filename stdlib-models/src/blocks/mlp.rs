//! The MLP of a layer without experts, plain or gated.

use neoxc_ir::{Builder, ValueId};

use super::{Result, linear};
use crate::arch::Arch;
use crate::param::Values;

/// `down(f(up(x)))`, or with a gate `down(f(gate(x)) · up(x))` (Shazeer 2020, arXiv:2002.05202), on `x`
/// [batch, seq, embed], with the parameters whose roles begin with `mlp.`.
pub fn mlp(a: &Arch, b: &mut Builder<'_>, p: &Values, x: ValueId) -> Result<ValueId> {
    b.at(&a.loc("intermediate_size"));
    let up = linear(b, x, p.need("mlp.up.weight")?, p.get("mlp.up.bias"), &["embed"])?;
    // The gate comes second, so that what is done with both is the end of its matmul.
    let wide = match a.gated {
        true => linear(b, x, p.need("mlp.gate.weight")?, p.get("mlp.gate.bias"), &["embed"])?,
        false => up,
    };
    b.at(&a.loc("activation"));
    let active = a.activation.apply(b, wide)?;
    let active = if a.gated { b.mul(active, up)? } else { active };
    b.at(&a.loc("intermediate_size"));
    linear(b, active, p.need("mlp.down.weight")?, p.get("mlp.down.bias"), &["ffn"])
}
