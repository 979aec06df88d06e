//! Masks of dropout on kernel values: the same bits as [`neoxc_ir::ops::dropout::Mask`], of which this is the
//! spelling for vectors.
//!
//! What names the row is hashed at its own width, which is one where a kernel's row is a row: then it leaves
//! the inner loop, which is left with one mixer, a comparison and a selection.

use neoxc_ir::Op;
use neoxc_ir::ops::dropout::{FACTORS, Mask};

use super::Body;
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};

/// The state of a row.
#[derive(Clone, Copy)]
pub struct Row([Val; 2]);

/// Both at the width of the wider one.
fn widen(k: &mut Emit, a: Val, b: Val) -> (Val, Val) {
    let lanes = a.ty.lanes().max(b.ty.lanes());
    (k.splat(a, lanes), k.splat(b, lanes))
}

fn constant(k: &mut Emit, x: u32, like: Val) -> Val {
    k.int32(x as i32, like.ty)
}

/// `x ^ (x >> by)`.
fn fold(k: &mut Emit, x: Val, by: u32) -> Val {
    let by = constant(k, by, x);
    let high = k.arith("shrui", x, by);
    k.arith("xori", x, high)
}

fn mix(k: &mut Emit, x: Val, key: Option<Val>) -> Val {
    let x = fold(k, x, 16);
    let factor = constant(k, FACTORS[0], x);
    let mut x = k.mul(x, factor);
    if let Some(key) = key {
        x = k.add(x, key);
    }
    let x = fold(k, x, 15);
    let factor = constant(k, FACTORS[1], x);
    let x = k.mul(x, factor);
    fold(k, x, 16)
}

impl Row {
    /// The row that `words` name.
    pub fn of(k: &mut Emit, mask: Mask, words: &[Val]) -> Row {
        let mut state = mask.start.map(|x| k.int32(x as i32, Ty::I32));
        for word in words {
            let (a, word) = widen(k, state[0], *word);
            let a = k.arith("xori", a, word);
            let a = mix(k, a, None);
            let (b, wide) = widen(k, state[1], a);
            let b = k.add(b, wide);
            state = [a, mix(k, b, None)];
        }
        Row(state)
    }

    /// Whether the elements in `columns` are kept.
    pub fn keeps(self, k: &mut Emit, mask: Mask, columns: Val) -> Val {
        let (a, columns) = widen(k, self.0[0], columns);
        let (key, _) = widen(k, self.0[1], columns);
        let x = k.arith("xori", a, columns);
        let x = mix(k, x, Some(key));
        let threshold = constant(k, mask.threshold, x);
        k.cmp("uge", x, threshold)
    }

    /// `x` over what is kept, scaled up, and zero elsewhere.
    pub fn drop(self, k: &mut Emit, mask: Mask, columns: Val, x: Val) -> Val {
        let (x, columns) = widen(k, x, columns);
        let keep = self.keeps(k, mask, columns);
        let (scale, zero) = (k.float(mask.scale, x.ty), k.float(0.0, x.ty));
        let scaled = k.mul(x, scale);
        k.select(keep, scaled, zero)
    }
}

/// The masks of attention weights: pointers of what names them.
#[derive(Clone, Copy)]
pub struct Weights {
    mask: Mask,
    place: Val,
    layer: Val,
    column: Val,
    head: Val,
}

impl Weights {
    /// Of an attention op whose operands from `first` on are place, layer, column and head; none where it
    /// drops nothing.
    pub fn of(b: &Body<'_>, op: &Op, first: usize) -> Result<Option<Weights>, CodegenError> {
        let [place, layer, column, head] = op.operands[first.min(op.operands.len())..] else {
            return Ok(None);
        };
        let mask = Mask::of(&op.attrs).map_err(|e| b.fail(e.0))?;
        let pointer = |v| b.param(v).ok_or_else(|| b.fail("lost an operand"));
        let (place, layer) = (pointer(place)?, pointer(layer)?);
        Ok(Some(Weights { mask, place, layer, column: pointer(column)?, head: pointer(head)? }))
    }

    /// The states of the weights of one head's queries from `first` on, `lanes` to a vector; those beyond `count`
    /// have some state.
    pub fn rows(
        self,
        k: &mut Emit,
        first: Val,
        count: Val,
        head: Val,
        queries: usize,
        lanes: usize,
    ) -> Vec<Row> {
        let head = k.element(self.head, head);
        let [layer, head] = [self.layer, head].map(|p| k.load(Ty::I32, p));
        (0..queries / lanes)
            .map(|j| {
                let mask = k.first_lanes(lanes, j, count);
                let place = k.element(self.place, first);
                let place = k.element_at(place, j * lanes);
                let place = k.load_masked_as(Ty::VecI32(lanes), place, mask);
                Row::of(k, self.mask, &[place, layer, head])
            })
            .collect()
    }

    /// 0 or the scale of kept weights, of a vector of queries for one key.
    pub fn factors(self, k: &mut Emit, row: Row, key: Val, lanes: usize) -> Val {
        let at = k.element(self.column, key);
        let column = k.load(Ty::I32, at);
        let column = k.splat(column, lanes);
        let keep = row.keeps(k, self.mask, column);
        let (scale, zero) =
            (k.float(self.mask.scale, Ty::Vec(lanes)), k.float(0.0, Ty::Vec(lanes)));
        k.select(keep, scale, zero)
    }
}
