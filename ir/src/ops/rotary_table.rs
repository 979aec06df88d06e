//! `neox.rotary_table`: cosines and sines of rotary embeddings.

use std::f64::consts::TAU;

use super::prelude::*;

/// The op of this file.
pub struct RotaryTable;

const fn may(name: &'static str, kind: AttrKind, doc: &'static str) -> AttrSpec {
    AttrSpec { name, kind, required: false, doc }
}

/// The ramp of YaRN over pairs of dims: 0 up to the pair that turns `fast` times within `original` positions, 1 from the
/// one that turns `slow` times (equation 17 of arXiv:2309.00071, with the pair's number in the place of its turns, as
/// Hugging Face's transformers 5.23 has it).
fn yarn_ramp(cx: &RuleCx<'_>, rot: f64, base: f64) -> Result<impl Fn(f64) -> f64, OpError> {
    let original = cx.float("original")?;
    let pair = |turns: f64| rot * (original / (turns * TAU)).ln() / (2.0 * base.ln());
    let (mut low, mut high) = (pair(cx.float("fast")?), pair(cx.float("slow")?));
    if cx.attrs.flag("truncate") {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, high) = (low.max(0.0), high.min(rot - 1.0));
    // No division by 0 where the two are one pair.
    let width = if low == high { 0.001 } else { high - low };
    Ok(move |i: f64| ((i - low) / width).clamp(0.0, 1.0))
}

/// The angle between neighbouring positions, of each pair of dims.
fn frequencies(cx: &RuleCx<'_>) -> Result<Vec<f64>, OpError> {
    let (rot, base) = (cx.size("rot")? as f64, cx.float("base")?);
    let of = |base: f64| move |i: usize| base.powf(-2.0 * i as f64 / rot);
    let pairs = 0..cx.size("rot")? / 2;
    let plain: Vec<f64> = pairs.clone().map(of(base)).collect();
    let Some(kind) = cx.attrs.str("scaling") else { return Ok(plain) };
    let factor = cx.float("factor")?;
    Ok(match kind {
        "linear" => plain.into_iter().map(|f| f / factor).collect(),
        // One pair of dims has no lowest frequency beside the highest one.
        "ntk" if rot <= 2.0 => plain,
        "ntk" => pairs.map(of(base * factor.powf(rot / (rot - 2.0)))).collect(),
        "yarn" => {
            let ramp = yarn_ramp(cx, rot, base)?;
            let mixed = |(i, f): (usize, f64)| {
                let divided = ramp(i as f64);
                f / factor * divided + f * (1.0 - divided)
            };
            plain.into_iter().enumerate().map(mixed).collect()
        }
        "llama3" => {
            let original = cx.float("original")?;
            let (low, high) = (cx.float("slow")?, cx.float("fast")?);
            let mixed = |f: f64| {
                let kept = ((original * f / TAU - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * (1.0 - kept) + f * kept
            };
            plain.into_iter().map(mixed).collect()
        }
        other => return Err(OpError::new(format!("no scaling `{other}`"))),
    })
}

impl OpDef for RotaryTable {
    frame! {
        rotary_table() -> (cos, sin),
        "cos and sin of `position·base^(-2i/rot)`, [seq = seq_size, rot = rot/2] (Su et al. 2021, arXiv:2104.09864). With `scaling`, frequencies are scaled for longer sequences: `linear` divides all by `factor`; `ntk` takes the base·factor^(rot/(rot-2)); `yarn` (arXiv:2309.00071) and `llama3` (arXiv:2407.21783) divide those that turn fewer than `slow` times within `original` positions, keep those that turn more than `fast` times, and mix between.",
        class Special,
        precision EXACT,
        attrs &[
            required("seq_size", AttrKind::Int, "positions"),
            required("rot", AttrKind::Int, "rotary dims per head, even"),
            required("base", AttrKind::Float, "frequency base"),
            may("scaling", AttrKind::Str, "`linear`, `ntk`, `yarn` or `llama3`"),
            may("factor", AttrKind::Float, "how much longer sequences are"),
            may("original", AttrKind::Float, "positions of a sequence before"),
            may("fast", AttrKind::Float, "turns from which on a frequency stays"),
            may("slow", AttrKind::Float, "turns up to which it is divided"),
            may("truncate", AttrKind::Bool, "whether yarn's ramp ends at whole dims"),
            may("amplitude", AttrKind::Float, "a factor of both tables; 1 without it"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (seq, rot) = (cx.size("seq_size")?, cx.size("rot")?);
        if rot % 2 != 0 {
            return Err(OpError::new("`rot` must be even"));
        }
        if frequencies(cx)?.iter().any(|f| !f.is_finite()) {
            return Err(OpError::new("the frequencies are not finite"));
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
        let frequencies = frequencies(&cx.rule)?;
        let amplitude = cx.rule.attrs.float("amplitude").unwrap_or(1.0);
        let ty = &cx.rule.results[0];
        let angle = |i: &[usize]| i[0] as f64 * frequencies[i[1]];
        Ok(vec![
            Tensor::from_fn(ty.clone(), |i| amplitude * angle(i).cos()),
            Tensor::from_fn(ty.clone(), |i| amplitude * angle(i).sin()),
        ])
    }
    primitive!();
}
