//! Dot products of pairs of bfloat16: the dot instruction of AVX-512, and AMX's tile registers.
//!
//! A pair is a 32-bit word, two neighbouring steps of a contraction, the first in the lower half. Words travel
//! in f32 registers, which move them unchanged.
//!
//! A tile register holds 16 rows of 64 bytes. They are named by number, as in the instructions: the
//! compiler allocates none of them.
//!
//! On targets without them the same is made of other instructions, tile registers being memory: slow, and for
//! tests, which so run these kernels on every machine.

use super::{Emit, Narrow, Ty, Val};

/// Rows of a tile register, and 32-bit columns.
pub const TILE: usize = 16;
/// Tile registers, and words of each.
const REGISTERS: usize = 8;
const REGISTER: usize = TILE * TILE;

impl Emit {
    /// The same address, of 32-bit words.
    pub fn words(&mut self, p: Val) -> Val {
        let t = self.ty(Ty::Ptr);
        self.def(Ty::Ptr, &format!("llvm.bitcast {p} : {t} to {t}"))
    }

    /// The same address, of bfloat16.
    pub fn halves(&mut self, p: Val) -> Val {
        let t = self.ty(Ty::Ptr);
        self.def(Ty::Ptr16(Narrow::Bf16), &format!("llvm.bitcast {p} : {t} to {t}"))
    }

    /// Words of two vectors of f32 rounded to bfloat16, one of `low` and one of `high` to a word.
    pub fn pair(&mut self, low: Val, high: Val) -> Val {
        let n = low.ty.lanes();
        let both = self.round_both(low, high);
        let items: Vec<String> = (0..n).map(|i| format!("{i}, {}", n + i)).collect();
        let t = format!("vector<{}xbf16>", 2 * n);
        let mixed = self.def(
            low.ty,
            &format!("vector.shuffle {both}, {both} [{}] : {t}, {t}", items.join(", ")),
        );
        let to = self.ty(low.ty);
        self.def(low.ty, &format!("vector.bitcast {mixed} : {t} to {to}"))
    }

    /// Words of two vectors of f32 rounded to bfloat16, those of `first` before those of `second`.
    pub fn pairs_along(&mut self, first: Val, second: Val) -> Val {
        let both = self.round_both(first, second);
        let (n, to) = (first.ty.lanes(), self.ty(first.ty));
        self.def(first.ty, &format!("vector.bitcast {both} : vector<{}xbf16> to {to}", 2 * n))
    }

    /// Both as one vector of bfloat16; what it is typed here says only how many bits it has.
    fn round_both(&mut self, first: Val, second: Val) -> Val {
        let (n, t) = (first.ty.lanes(), self.ty(first.ty));
        if !self.has.avx512_bf16 {
            let [a, b] = [first, second].map(|v| self.nearest(Narrow::Bf16, v));
            let items: Vec<String> = (0..2 * n).map(|i| i.to_string()).collect();
            let (th, ty) = (self.ty(a.ty), Ty::VecI16(2 * n));
            let both = self
                .def(ty, &format!("vector.shuffle {a}, {b} [{}] : {th}, {th}", items.join(", ")));
            let t = self.ty(ty);
            let to = format!("vector<{}xbf16>", 2 * n);
            return self.def(first.ty, &format!("vector.bitcast {both} : {t} to {to}"));
        }
        self.def(
            first.ty,
            &format!(
                "llvm.call_intrinsic \"llvm.x86.avx512bf16.cvtne2ps2bf16.{}\"({second}, {first}) : ({t}, {t}) -> vector<{}xbf16>",
                32 * n,
                2 * n
            ),
        )
    }

    /// Words of the bfloat16 at `low` and at `high`, one of each to a word.
    pub fn load_pairs(&mut self, low: Val, high: Val, lanes: usize, mask: Option<Val>) -> Val {
        let [low, high] = [low, high].map(|p| {
            let wide = match mask {
                None => self.load(Ty::Vec(lanes), p),
                Some(mask) => self.load_masked(p, mask),
            };
            self.bitcast(wide, Ty::VecI32(lanes))
        });
        // As f32 they stand in the upper half.
        let sixteen = self.int32(16, Ty::VecI32(lanes));
        let low = self.arith("shrui", low, sixteen);
        let both = self.arith("ori", low, high);
        self.bitcast(both, Ty::Vec(lanes))
    }

    /// `c + a·b` where a and b are words: the dot product of each pair is added.
    pub fn dot(&mut self, a: Val, b: Val, c: Val) -> Val {
        if !self.has.avx512_bf16 {
            return self.dot_in_two(a, b, c);
        }
        let n = c.ty.lanes();
        let (t, th) = (self.ty(c.ty), format!("vector<{}xbf16>", 2 * n));
        let [a, b] = [a, b].map(|v| self.def(v.ty, &format!("vector.bitcast {v} : {t} to {th}")));
        self.def(
            c.ty,
            &format!(
                "llvm.call_intrinsic \"llvm.x86.avx512bf16.dpbf16ps.{}\"({c}, {a}, {b}) : ({t}, {th}, {th}) -> {t}",
                32 * n
            ),
        )
    }

    /// The same of two multiply-adds, for machines without the instruction.
    fn dot_in_two(&mut self, a: Val, b: Val, c: Val) -> Val {
        let ints = c.ty.int();
        let (sixteen, upper) = (self.int32(16, ints), self.int32(-0x1_0000, ints));
        let [a, b] = [a, b].map(|v| {
            let v = self.bitcast(v, ints);
            [self.arith("andi", v, upper), self.arith("shli", v, sixteen)]
                .map(|half| self.bitcast(half, c.ty))
        });
        let c = self.fma(a[0], b[0], c);
        self.fma(a[1], b[1], c)
    }

    /// Shapes all tile registers 16 × 64 bytes; `room` is a cache line for the description. Outside of all loops.
    pub fn tile_config(&mut self, room: Val) {
        if !self.has.amx {
            let (floats, t) = (self.int((REGISTERS * REGISTER) as i64), self.ty(Ty::Ptr));
            let alloca =
                format!("llvm.alloca {floats} x f32 {{alignment = 64 : i64}} : (i64) -> {t}");
            self.tiles = Some(self.def(Ty::Ptr, &alloca));
            return;
        }
        // Palette 1; 16-bit row lengths from byte 16 on; heights from byte 48 on.
        let mut words = [0i32; 16];
        words[0] = 1;
        words[4..8].fill(0x0040_0040);
        words[12..14].fill(0x1010_1010);
        let items: Vec<String> = words.iter().map(i32::to_string).collect();
        let ty = Ty::VecI32(16);
        let t = self.ty(ty);
        let v = self.def(ty, &format!("arith.constant dense<[{}]> : {t}", items.join(", ")));
        self.store(v, room);
        let t = self.ty(Ty::Ptr);
        self.line(&format!("llvm.call_intrinsic \"llvm.x86.ldtilecfg\"({room}) : ({t}) -> ()"));
    }

    /// Gives the tile registers back: the system need not save them any more.
    pub fn tile_release(&mut self) {
        if self.has.amx {
            self.line("llvm.call_intrinsic \"llvm.x86.tilerelease\"() : () -> ()");
        }
    }

    /// Clears tile register `n`.
    pub fn tile_zero(&mut self, n: usize) {
        if let Some(to) = self.in_memory(n) {
            let none = self.float(0.0, Ty::Vec(TILE));
            return self.count(TILE, |k, i| {
                let to = row(k, to, i, TILE);
                k.store(none, to);
            });
        }
        let n = self.number(n);
        self.line(&format!("llvm.call_intrinsic \"llvm.x86.tilezero\"({n}) : (i8) -> ()"));
    }

    /// Loads tile register `n` from rows `stride` words apart.
    pub fn tile_load(&mut self, n: usize, p: Val, stride: usize) {
        match self.in_memory(n) {
            Some(to) => self.move_rows((p, stride), (to, TILE)),
            None => self.tile_move("tileloadd64", n, p, stride),
        }
    }

    /// Stores tile register `n` to rows `stride` words apart.
    pub fn tile_store(&mut self, n: usize, p: Val, stride: usize) {
        match self.in_memory(n) {
            Some(from) => self.move_rows((from, TILE), (p, stride)),
            None => self.tile_move("tilestored64", n, p, stride),
        }
    }

    /// Tile `c` += tile `a` times tile `b`: rows of words, and words of each row's columns.
    pub fn tile_dot(&mut self, c: usize, a: usize, b: usize) {
        if let [Some(c), Some(a), Some(b)] = [c, a, b].map(|n| self.in_memory(n)) {
            return self.count(TILE, |k, i| {
                let (c, a) = (row(k, c, i, TILE), row(k, a, i, TILE));
                let sums = k.load(Ty::Vec(TILE), c);
                let (zero, one, all) = (k.int(0), k.int(1), k.int(TILE as i64));
                let sums = k.for_(zero, all, one, &[sums], |k, step, sums| {
                    let (a, b) = (k.element(a, step), row(k, b, step, TILE));
                    let (x, line) = (k.load(Ty::F32, a), k.load(Ty::Vec(TILE), b));
                    let x = k.splat(x, TILE);
                    vec![k.dot(x, line, sums[0])]
                });
                k.store(sums[0], c);
            });
        }
        let [c, a, b] = [c, a, b].map(|n| self.number(n));
        self.line(&format!(
            "llvm.call_intrinsic \"llvm.x86.tdpbf16ps\"({c}, {a}, {b}) : (i8, i8, i8) -> ()"
        ));
    }

    fn tile_move(&mut self, name: &str, n: usize, p: Val, stride: usize) {
        let (n, stride, t) = (self.number(n), self.int(4 * stride as i64), self.ty(Ty::Ptr));
        self.line(&format!(
            "llvm.call_intrinsic \"llvm.x86.{name}\"({n}, {p}, {stride}) : (i8, {t}, i64) -> ()"
        ));
    }

    /// The number of a tile register.
    fn number(&mut self, n: usize) -> Val {
        self.def(Ty::I8, &format!("arith.constant {n} : i8"))
    }

    /// Where the rows of tile register `n` are, on a target without such.
    fn in_memory(&mut self, n: usize) -> Option<Val> {
        let all = self.tiles?;
        Some(self.element_at(all, n * REGISTER))
    }

    fn move_rows(&mut self, (from, from_stride): (Val, usize), (to, to_stride): (Val, usize)) {
        self.count(TILE, |k, i| {
            let (from, to) = (row(k, from, i, from_stride), row(k, to, i, to_stride));
            let v = k.load(Ty::Vec(TILE), from);
            k.store(v, to);
        });
    }
}

/// Row `i` of rows `stride` words apart.
fn row(k: &mut Emit, base: Val, i: Val, stride: usize) -> Val {
    let at = k.scale(i, stride);
    k.element(base, at)
}
