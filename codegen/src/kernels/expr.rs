//! One pointwise primitive on kernel values.

use neoxc_ir::ops::dropout::Mask;
use neoxc_ir::{Op, OpKind};

use super::dropout::Row;
use crate::emit::{Emit, Ty, Val, math};

/// Emits `op` on `args`; scalars are spread to the lanes of the widest argument.
/// `None` where `op` is not a pointwise primitive.
pub fn pointwise(k: &mut Emit, op: &Op, args: &[Val]) -> Option<Val> {
    if op.kind == OpKind::Dropout {
        let mask = Mask::of(&op.attrs).ok()?;
        let [x, place, layer, column, ref head @ ..] = *args else { return None };
        let row = Row::of(k, mask, &[&[place, layer], head].concat());
        return Some(row.drop(k, mask, column, x));
    }
    let lanes = args.iter().map(|a| a.ty.lanes()).max().unwrap_or(1);
    let args: Vec<Val> = args.iter().map(|a| k.splat(*a, lanes)).collect();
    let x = args.first().copied();
    Some(match (op.kind, x) {
        (OpKind::Fill, _) if op.attrs.str("dtype") == Some("i32") => {
            k.int32(op.attrs.float("value")? as i32, Ty::I32)
        }
        (OpKind::Fill, _) => k.float(op.attrs.float("value")?, Ty::F32),
        (OpKind::Add, Some(a)) => k.add(a, args[1]),
        (OpKind::Sub, Some(a)) => k.sub(a, args[1]),
        (OpKind::Mul, Some(a)) => k.mul(a, args[1]),
        (OpKind::Div, Some(a)) => k.div(a, args[1]),
        (OpKind::Maximum, Some(a)) => k.max(a, args[1]),
        (OpKind::Minimum, Some(a)) => k.min(a, args[1]),
        (OpKind::Neg, Some(a)) => k.neg(a),
        (OpKind::Exp, Some(a)) => math::exp(k, a),
        (OpKind::Log, Some(a)) => math::log(k, a),
        (OpKind::Tanh, Some(a)) => math::tanh(k, a),
        (OpKind::Logistic, Some(a)) => math::logistic(k, a),
        (OpKind::Erf, Some(a)) => math::erf(k, a),
        (OpKind::Sqrt, Some(a)) => k.sqrt(a),
        (OpKind::Rsqrt, Some(a)) => math::rsqrt(k, a),
        // Numbers are f32 in registers; who asks for a kernel's value rounds it to its dtype.
        (OpKind::Cast, Some(a)) if is_float(a) && op.attrs.str("dtype") != Some("i32") => a,
        (OpKind::Step, Some(a)) => {
            let (zero, one) = (k.float(0.0, a.ty), k.float(1.0, a.ty));
            let positive = k.cmp("ogt", a, zero);
            k.select(positive, one, zero)
        }
        _ => return None,
    })
}

fn is_float(v: Val) -> bool {
    v.ty == v.ty.float()
}
