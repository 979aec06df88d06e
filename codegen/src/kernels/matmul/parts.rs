//! Where the sums of a fused projection go: queries, keys and values, each `[batch, heads, seq, head_dim]`, of columns
//! `[heads, 3, head_dim]`, or with queries that share keys and values `[heads, queries + 2, head_dim]`; and their rotary
//! embedding.
//!
//! A row's vectors are stored as they are made. The halves that a rotation takes may be in two tiles, so what is to be
//! rotated is rotated in place as soon as all columns of some rows are there, and still in the caches.

use neoxc_ir::{Op, OpKind, ValueId};

use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};
use crate::kernels::Body;
use crate::kernels::qkv::{self, Rotation, Sizes};

/// The parts of a matmul's result, if it has any.
#[derive(Clone)]
pub struct Parts {
    /// The value that is split.
    pub fused: ValueId,
    sizes: Sizes,
    to: Vec<(Val, Option<Rotation>)>,
}

/// Parameters that only rotations read: their tables.
pub fn tables(ops: &[Op]) -> Vec<ValueId> {
    ops.iter()
        .filter(|op| op.kind == OpKind::Rotary)
        .flat_map(|op| op.operands[1..].to_vec())
        .collect()
}

impl Parts {
    /// What the body splits.
    pub fn of(b: &Body<'_>) -> Result<Option<Parts>, CodegenError> {
        let Some(op) = b.f.ops.iter().find(|op| op.kind == OpKind::QkvSplit) else {
            return Ok(None);
        };
        let sizes = qkv::sizes(b, op.results[0])?;
        let to = qkv::stored_parts(b, op)?;
        Ok(Some(Parts { fused: op.operands[0], sizes, to }))
    }

    /// Elements of a head: columns that stay together.
    pub fn width(&self) -> usize {
        self.sizes.width
    }

    /// Whether a result of the kernel is a part.
    pub fn holds(&self, pointer: Val) -> bool {
        self.to.iter().any(|(to, _)| *to == pointer)
    }

    /// Stores elements of one row from `column` on, those before column `end` if that may lie among them.
    pub fn store(&self, k: &mut Emit, row: Val, column: Val, v: Val, end: Option<usize>) {
        let lanes = v.ty.lanes();
        // So many neighbours are surely of one head.
        let piece = (1..=lanes)
            .rev()
            .find(|n| lanes.is_multiple_of(*n) && self.sizes.width.is_multiple_of(*n));
        let piece = piece.unwrap_or(1);
        for from in (0..lanes).step_by(piece) {
            let offset = k.int(from as i64);
            let column = k.add(column, offset);
            let part = slice(k, v, from, piece);
            let put = |k: &mut Emit| {
                let width = k.int(self.sizes.width as i64);
                let (unit, within) = (k.div(column, width), k.rem(column, width));
                let (which, at) = self.unit(k, row, unit);
                let at = k.add(at, within);
                let mut to = self.to[0].0;
                for (i, (other, _)) in self.to.iter().enumerate().skip(1) {
                    let i = k.int(i as i64);
                    let here = k.cmp("eq", which, i);
                    to = k.select(here, *other, to);
                }
                let p = k.element(to, at);
                k.store(part, p);
            };
            match end {
                None => put(k),
                Some(end) => {
                    let end = k.int(end as i64);
                    let inside = k.cmp("slt", column, end);
                    k.if_(inside, put);
                }
            }
        }
    }

    /// Of the columns `unit` of a row, one head of queries, a key or a value: which part that is, and where they begin in it.
    fn unit(&self, k: &mut Emit, row: Val, unit: Val) -> (Val, Val) {
        let (seq, all) = (k.int(self.sizes.seq as i64), k.int(self.sizes.rows() as i64));
        let (batch, position) = (k.div(row, seq), k.rem(row, seq));
        let (head, member) = (k.div(unit, all), k.rem(unit, all));
        let at = k.scale(batch, self.sizes.heads);
        let head = k.add(at, head);
        let (which, at) = match self.sizes.sharing {
            1 => (member, head),
            sharing => {
                let (zero, sharing) = (k.int(0), k.int(sharing as i64));
                let first = k.mul(head, sharing);
                let of_queries = k.add(first, member);
                let query = k.cmp("slt", member, sharing);
                let (one, other) = (k.int(1), k.sub(member, sharing));
                let other = k.add(other, one);
                (k.select(query, zero, other), k.select(query, of_queries, head))
            }
        };
        let at = k.scale(at, self.sizes.seq);
        let at = k.add(at, position);
        (which, k.scale(at, self.sizes.width))
    }

    /// Rotates what was stored of the rows and columns from the first to the second of each, whole heads.
    pub fn turn(&self, k: &mut Emit, rows: [Val; 2], columns: [Val; 2], lanes: usize) {
        if self.to.iter().all(|(_, how)| how.is_none()) {
            return;
        }
        k.loop_(rows[0], rows[1], 1, |k, row| {
            let (width, seq) = (k.int(self.sizes.width as i64), k.int(self.sizes.seq as i64));
            let (lo, hi) = (k.div(columns[0], width), k.div(columns[1], width));
            let position = k.rem(row, seq);
            k.loop_(lo, hi, 1, |k, unit| {
                let (which, at) = self.unit(k, row, unit);
                for (i, (to, how)) in self.to.iter().enumerate() {
                    let Some(how) = how else { continue };
                    let i = k.int(i as i64);
                    let here = k.cmp("eq", which, i);
                    k.if_(here, |k| {
                        let x = k.element(*to, at);
                        qkv::part(k, x, x, 2 * how.half, position, Some(*how), lanes);
                    });
                }
            });
        });
    }
}

/// Lanes `from .. from + n` of a vector.
fn slice(k: &mut Emit, v: Val, from: usize, n: usize) -> Val {
    if n == v.ty.lanes() {
        return v;
    }
    let t = k.ty(v.ty);
    if n == 1 {
        return k.def(Ty::F32, &format!("vector.extract {v}[{from}] : f32 from {t}"));
    }
    let lanes: Vec<String> = (from..from + n).map(|i| i.to_string()).collect();
    k.def(Ty::Vec(n), &format!("vector.shuffle {v}, {v} [{}] : {t}, {t}", lanes.join(", ")))
}
