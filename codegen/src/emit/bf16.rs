//! bfloat16 in memory, f32 in registers: a bfloat16 is the upper half of an f32.
//!
//! Rounding is to nearest, ties to even, and keeps NaNs.

use super::{Emit, Ty, Val};

impl Emit {
    /// Loads bfloat16 as `ty`, f32 with as many lanes; of lanes that `mask` leaves out, zero.
    pub(super) fn load_bf16(&mut self, ty: Ty, p: Val, mask: Option<Val>) -> Val {
        let (half, tp) = (half(ty), self.ty(p.ty));
        let t = self.ty(half);
        let bits = match mask {
            None => self.def(half, &format!("llvm.load {p} {{alignment = 2 : i64}} : {tp} -> {t}")),
            Some(mask) => {
                let zero = self.def(half, &format!("arith.constant dense<0> : {t}"));
                let tm = self.ty(mask.ty);
                self.def(
                    half,
                    &format!(
                        "llvm.intr.masked.load {p}, {mask}, {zero} {{alignment = 2 : i32}} : ({tp}, {tm}, {t}) -> {t}"
                    ),
                )
            }
        };
        self.widen_bf16(bits)
    }

    /// Stores f32 as bfloat16, in the lanes that `mask` selects.
    pub(super) fn store_bf16(&mut self, v: Val, p: Val, mask: Option<Val>) {
        let bits = match self.rounded.get(&v.id) {
            Some(bits) => *bits,
            None => self.narrow_bf16(v),
        };
        let (tp, t) = (self.ty(p.ty), self.ty(bits.ty));
        match mask {
            None => {
                self.line(&format!("llvm.store {bits}, {p} {{alignment = 2 : i64}} : {t}, {tp}"));
            }
            Some(mask) => {
                let tm = self.ty(mask.ty);
                self.line(&format!(
                    "llvm.intr.masked.store {bits}, {p}, {mask} {{alignment = 2 : i32}} : {t}, {tm} into {tp}"
                ));
            }
        }
    }

    /// f32 rounded to the nearest bfloat16, as f32 again.
    pub fn round_bf16(&mut self, v: Val) -> Val {
        if self.rounded.contains_key(&v.id) {
            return v;
        }
        let bits = self.narrow_bf16(v);
        let wide = self.widen_bf16(bits);
        // A store of the rounded value need not round again.
        self.rounded.insert(wide.id, bits);
        wide
    }

    /// The bits of the nearest bfloat16.
    pub(super) fn narrow_bf16(&mut self, v: Val) -> Val {
        let to = half(v.ty);
        let (ti, t, th) = (self.ty(v.ty.int()), self.ty(v.ty), self.ty(to));
        if self.has.avx512_bf16 {
            let tb = th.replace("i16", "bf16");
            let b = self.def(to, &format!("arith.truncf {v} : {t} to {tb}"));
            return self.def(to, &format!("arith.bitcast {b} : {tb} to {th}"));
        }
        let bits = self.bitcast(v, v.ty.int());
        let [one, sixteen, below, quiet] =
            [1, 16, 0x7fff, 0x0040_0000].map(|n| self.int32(n, v.ty));
        // Half of the last place that stays, less one where that place is even: ties go to even.
        let upper = self.arith("shrui", bits, sixteen);
        let odd = self.arith("andi", upper, one);
        let carry = self.add(odd, below);
        let rounded = self.add(bits, carry);
        // A NaN must not round to infinity.
        let kept = self.arith("ori", bits, quiet);
        let nan = self.cmp("uno", v, v);
        let rounded = self.select(nan, kept, rounded);
        let upper = self.arith("shrui", rounded, sixteen);
        self.def(to, &format!("arith.trunci {upper} : {ti} to {th}"))
    }

    fn widen_bf16(&mut self, bits: Val) -> Val {
        let float = if bits.ty.lanes() > 1 { Ty::Vec(bits.ty.lanes()) } else { Ty::F32 };
        let (th, ti) = (self.ty(bits.ty), self.ty(float.int()));
        let wide = self.def(float.int(), &format!("arith.extui {bits} : {th} to {ti}"));
        let sixteen = self.int32(16, float);
        let wide = self.arith("shli", wide, sixteen);
        self.bitcast(wide, float)
    }
}

/// 16 bits with the lanes of `ty`.
fn half(ty: Ty) -> Ty {
    if ty.lanes() > 1 { Ty::VecI16(ty.lanes()) } else { Ty::I16 }
}
