//! `neox.rotary_table`: cosines and sines of rotary embeddings.

use super::prelude::*;

/// The op of this file.
pub struct RotaryTable;

impl OpDef for RotaryTable {
    fn name(&self) -> &'static str {
        "rotary_table"
    }
    fn doc(&self) -> &'static str {
        "cos and sin of `position·base^(-2i/rot)`, [seq = seq_size, rot = rot/2] (Su et al. 2021, arXiv:2104.09864)."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[],
            results: &[("cos", Arity::One), ("sin", Arity::One)],
            attrs: const {
                &[
                    required("seq_size", AttrKind::Int, "positions"),
                    required("rot", AttrKind::Int, "rotary dims per head, even"),
                    required("base", AttrKind::Float, "frequency base"),
                ]
            },
        }
    }
    fn class(&self) -> Class {
        Class::Special
    }
    fn precision(&self) -> Precision {
        Precision::EXACT
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (seq, rot) = (cx.size("seq_size")?, cx.size("rot")?);
        if rot % 2 != 0 {
            return Err(OpError::new("`rot` must be even"));
        }
        let ty = TensorType::f32(&[("seq", seq), ("rot", rot / 2)]);
        Ok(vec![ty.clone(), ty])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::Operands(vec![]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (rot, base) = (cx.rule.size("rot")? as f64, cx.rule.float("base")?);
        let ty = &cx.rule.results[0];
        let angle = |i: &[usize]| i[0] as f64 * base.powf(-2.0 * i[1] as f64 / rot);
        Ok(vec![
            Tensor::from_fn(ty.clone(), |i| angle(i).cos()),
            Tensor::from_fn(ty.clone(), |i| angle(i).sin()),
        ])
    }
    primitive!();
}
