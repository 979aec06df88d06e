//! 16-bit floats in memory, f32 in registers.
//!
//! Rounding is to nearest, ties to even, and keeps NaNs. A bfloat16 is the upper half of an f32. An f16 has fewer exponents:
//! what is too large for it becomes infinite, and what is small a subnormal number or zero, whatever the processor's
//! mode for subnormal f32 is.

use super::{Emit, Ty, Val};

/// A 16-bit float as memory has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Narrow {
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
}

impl Emit {
    /// Loads 16-bit floats as `ty`, f32 with as many lanes; of lanes that `mask` leaves out, zero.
    pub(super) fn load_narrow(&mut self, ty: Ty, from: Narrow, p: Val, mask: Option<Val>) -> Val {
        let (bits, tp) = (bits16(ty), self.ty(p.ty));
        let t = self.ty(bits);
        let bits = match mask {
            None => self.def(bits, &format!("llvm.load {p} {{alignment = 2 : i64}} : {tp} -> {t}")),
            Some(mask) => {
                let zero = self.def(bits, &format!("arith.constant dense<0> : {t}"));
                let tm = self.ty(mask.ty);
                self.def(
                    bits,
                    &format!(
                        "llvm.intr.masked.load {p}, {mask}, {zero} {{alignment = 2 : i32}} : ({tp}, {tm}, {t}) -> {t}"
                    ),
                )
            }
        };
        self.widen_narrow(from, bits)
    }

    /// Stores f32 as 16-bit floats, in the lanes that `mask` selects.
    pub(super) fn store_narrow(&mut self, v: Val, to: Narrow, p: Val, mask: Option<Val>) {
        let bits = match self.rounded.get(&v.id) {
            Some((dtype, bits)) if *dtype == to => *bits,
            _ => self.nearest(to, v),
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

    /// f32 rounded to the nearest 16-bit float, as f32 again.
    pub fn round_to(&mut self, to: Narrow, v: Val) -> Val {
        if self.rounded.get(&v.id).is_some_and(|(dtype, _)| *dtype == to) {
            return v;
        }
        let bits = self.nearest(to, v);
        let wide = self.widen_narrow(to, bits);
        // A store of the rounded value need not round again.
        self.rounded.insert(wide.id, (to, bits));
        wide
    }

    /// The bits of the nearest 16-bit float.
    pub(super) fn nearest(&mut self, to: Narrow, v: Val) -> Val {
        match to {
            Narrow::Bf16 if !self.has.avx512_bf16 => self.narrow_in_words(v),
            _ => {
                let (t, bits) = (self.ty(v.ty), bits16(v.ty));
                let (th, tb) = self.narrow_types(to, bits);
                let b = self.def(bits, &format!("arith.truncf {v} : {t} to {tb}"));
                self.def(bits, &format!("arith.bitcast {b} : {tb} to {th}"))
            }
        }
    }

    /// The bits of the nearest bfloat16, by operations on words.
    fn narrow_in_words(&mut self, v: Val) -> Val {
        let to = bits16(v.ty);
        let (ti, th) = (self.ty(v.ty.int()), self.ty(to));
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

    fn widen_narrow(&mut self, from: Narrow, bits: Val) -> Val {
        let float = bits.ty.float();
        if from == Narrow::F16 {
            let ((th, tb), t) = (self.narrow_types(from, bits.ty), self.ty(float));
            let b = self.def(bits.ty, &format!("arith.bitcast {bits} : {th} to {tb}"));
            return self.def(float, &format!("arith.extf {b} : {tb} to {t}"));
        }
        let (th, ti) = (self.ty(bits.ty), self.ty(float.int()));
        let wide = self.def(float.int(), &format!("arith.extui {bits} : {th} to {ti}"));
        let sixteen = self.int32(16, float);
        let wide = self.arith("shli", wide, sixteen);
        self.bitcast(wide, float)
    }

    /// MLIR's spelling of 16 bits, and of the floats that they are.
    fn narrow_types(&self, dtype: Narrow, bits: Ty) -> (String, String) {
        let th = self.ty(bits);
        let name = if dtype == Narrow::Bf16 { "bf16" } else { "f16" };
        let tb = th.replace("i16", name);
        (th, tb)
    }
}

/// 16 bits with the lanes of `ty`.
fn bits16(ty: Ty) -> Ty {
    if ty.lanes() > 1 { Ty::VecI16(ty.lanes()) } else { Ty::I16 }
}
