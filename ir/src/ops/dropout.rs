//! `neox.dropout` (Srivastava et al. 2014), with masks that nobody stores.
//!
//! Whether an element is kept is a function of who it is: the seed, the kind of dropout (`site`), the
//! token's number in the whole run (`place`), the layer, the head, and the column. These come as operands,
//! which are divided over ranks as the data is: so the mask of an element is the same whatever the layout,
//! the number of threads, and however often it is computed.
//!
//! The generator is a hash in counter mode, not Philox: rows (place, layer, head) walk a state of 64 bits
//! through a 32-bit mixer of two multiplications, and each column is one more such mixer keyed by both halves.
//! That is about ten integer instructions an element where Philox-4x32-10 takes four times as many, half of
//! them 64-bit multiplications that vectors lack; `ir/tests/dropout.rs` shows means, pairs of neighbours along every
//! operand, patterns of eight and sums of rows to be those of independent draws.

use super::prelude::*;

/// The two odd factors of the mixer (those of C. Wellons' `lowbias32`).
pub const FACTORS: [u32; 2] = [0x7feb_352d, 0x846c_a68b];
/// Spreads site and seed apart.
const SPREAD: u32 = 0x9e37_79b9;

/// A bijection of 32 bits in which every input bit changes every output bit about half of the time.
pub fn mix(x: u32) -> u32 {
    keyed(x, 0)
}

/// The same with a key between the rounds.
fn keyed(mut x: u32, key: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(FACTORS[0]).wrapping_add(key);
    x = (x ^ (x >> 15)).wrapping_mul(FACTORS[1]);
    x ^ (x >> 16)
}

/// What the attributes of a dropout say; kernels do the same steps on vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// State before the row's numbers.
    pub start: [u32; 2],
    /// Words from here on are kept.
    pub threshold: u32,
    /// What kept elements are multiplied by.
    pub scale: f64,
}

impl Mask {
    /// Reads `rate`, `seed` and `site`.
    pub fn of(attrs: &Attrs) -> Result<Mask, OpError> {
        let missing = |name: &str| OpError::new(format!("needs `{name}`"));
        let rate = attrs.float("rate").ok_or_else(|| missing("rate"))?;
        let seed = attrs.int("seed").ok_or_else(|| missing("seed"))? as u64;
        let site = attrs.int("site").ok_or_else(|| missing("site"))? as u32;
        Mask::new(rate, seed, site)
    }

    /// The masks of one dropout of a model.
    pub fn new(rate: f64, seed: u64, site: u32) -> Result<Mask, OpError> {
        if !(0.0..1.0).contains(&rate) {
            return Err(OpError::new(format!("`rate` is {rate}; it must be from 0 to below 1")));
        }
        let threshold = (rate * 2f64.powi(32)).round().min(f64::from(u32::MAX)) as u32;
        let site = site.wrapping_add(1).wrapping_mul(SPREAD);
        let start = [mix(seed as u32 ^ site), mix((seed >> 32) as u32 ^ mix(site))];
        Ok(Mask { start, threshold, scale: 1.0 / (1.0 - rate) })
    }

    /// The state after one more number of the row.
    pub fn absorb(state: [u32; 2], word: u32) -> [u32; 2] {
        let a = mix(state[0] ^ word);
        [a, mix(state[1].wrapping_add(a))]
    }

    /// Whether the element of a row in `column` is kept.
    pub fn keeps(&self, state: [u32; 2], column: u32) -> bool {
        keyed(state[0] ^ column, state[1]) >= self.threshold
    }

    /// 0 or [`Mask::scale`], for the element that `row` and `column` name, as the evaluator holds them.
    pub fn factor(&self, row: &[f64], column: f64) -> f64 {
        // Numbers are kept modulo 2^32.
        let word = |x: f64| x as i64 as u32;
        let state = row.iter().fold(self.start, |s, x| Mask::absorb(s, word(*x)));
        if self.keeps(state, word(column)) { self.scale } else { 0.0 }
    }
}

/// Attributes of everything that drops.
pub const ATTRS: [AttrSpec; 3] = [
    required("rate", AttrKind::Float, "the part that is dropped, from 0 to below 1"),
    required("seed", AttrKind::Int, "seed of the run"),
    required("site", AttrKind::Int, "which of the model's dropouts"),
];

/// Checks that operands are whole numbers that broadcast into `large`.
pub fn check_ids(ids: &[TensorType], large: &TensorType) -> Result<(), OpError> {
    for ty in ids {
        if ty.dtype != DType::I32 {
            return Err(OpError::new(format!("{ty} is not a number of rows or columns")));
        }
        super::pointwise::check_broadcast(ty, large)?;
    }
    Ok(())
}

/// The op of this file.
pub struct Dropout;

impl OpDef for Dropout {
    frame! {
        dropout(x, place, layer, column, head: Optional) -> (y),
        "`x / (1 - rate)` where the element is kept, else 0. What is kept depends on `seed`, `site` and the element's `place`, `layer`, `head` and `column` alone, which broadcast by dim name.",
        class Pointwise,
        precision WIDE,
        attrs &ATTRS,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        Mask::of(cx.attrs)?;
        let x = &cx.operands[0];
        if !x.dtype.is_float() {
            return Err(OpError::new(format!("{x} is not made of floats")));
        }
        check_ids(&cx.operands[1..], x)?;
        Ok(vec![x.clone()])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let mut operands = cx.op.operands.clone();
        operands[0] = cx.dy()?;
        let attrs = cx.op.attrs.clone();
        let dx = cx.b.one(OpKind::Dropout, &operands, attrs)?;
        let mut all = vec![None; operands.len()];
        all[0] = Some(dx);
        Ok(Gradient::Operands(all))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // Linear in `x`; the other operands are never parts of sums.
        ShardRule::parallel(cx).sums(Sums::Each)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        super::pointwise::cost(cx, 12.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let mask = Mask::of(cx.rule.attrs)?;
        let ty = cx.rule.results[0].clone();
        let rows: Vec<&Tensor> =
            [1, 2, 4].into_iter().filter_map(|i| cx.operands.get(i).copied()).collect();
        let (x, column, like) = (cx.operands[0], cx.operands[3], ty.clone());
        Ok(vec![Tensor::from_fn(ty, |i| {
            let row: Vec<f64> = rows.iter().map(|t| t.at_named(&like, i)).collect();
            match mask.factor(&row, column.at_named(&like, i)) {
                0.0 => 0.0,
                scale => x.at(i) * scale,
            }
        })])
    }
    primitive!();
}
