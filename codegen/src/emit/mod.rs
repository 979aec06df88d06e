//! A typed builder of MLIR text in upstream dialects.
//!
//! Kernels are printed as MLIR and then parsed and verified by MLIR itself (through melior), so
//! what a snapshot shows is exactly what is compiled. The builder keeps the type of every value, so
//! an op is printed with the right types by construction.
//!
//! Invariant: every value is used inside the region it was made in; `scf.for` results are the
//! only way out of a loop.

use std::collections::HashMap;
use std::fmt::Write;

mod amx;
pub mod math;
mod narrow;

pub use amx::TILE;
pub use narrow::Narrow;

/// Floats of a cache line.
pub const LINE: usize = 16;

/// Type of a kernel value. Vectors have the builder's number of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ty {
    /// A truth value.
    I1,
    /// 8-bit integer: the number of a tile register.
    I8,
    /// 32-bit integer.
    I32,
    /// 16 bits: a bfloat16 or f16 as it is stored.
    I16,
    /// 64-bit integer: indices and offsets.
    I64,
    /// 32-bit float.
    F32,
    /// A pointer to 32-bit elements.
    Ptr,
    /// A pointer to 16-bit floats: loads give f32, stores round.
    Ptr16(Narrow),
    /// `n` truth values.
    VecI1(usize),
    /// `n` times 16 bits.
    VecI16(usize),
    /// `n` 32-bit integers.
    VecI32(usize),
    /// `n` 32-bit floats.
    Vec(usize),
}

impl Ty {
    /// Lanes of a vector type; 1 for scalars.
    pub fn lanes(self) -> usize {
        match self {
            Ty::VecI1(n) | Ty::VecI16(n) | Ty::VecI32(n) | Ty::Vec(n) => n,
            _ => 1,
        }
    }

    /// f32 with as many lanes.
    pub fn float(self) -> Ty {
        if self.lanes() > 1 { Ty::Vec(self.lanes()) } else { Ty::F32 }
    }

    /// i32 with as many lanes.
    pub fn int(self) -> Ty {
        if self.lanes() > 1 { Ty::VecI32(self.lanes()) } else { Ty::I32 }
    }
}

/// A value of the kernel under construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Val {
    id: usize,
    /// Its type.
    pub ty: Ty,
}

/// Instructions that not every target has. Without them others make the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Instructions {
    /// AVX-512 on 16 floats.
    pub avx512: bool,
    /// Its instructions that round to bfloat16 and multiply it.
    pub avx512_bf16: bool,
    /// Tile registers.
    pub amx: bool,
}

/// A loop whose body is being written.
pub struct OpenLoop {
    /// The loop's variable.
    pub i: Val,
    /// What the iteration is handed.
    pub carried: Vec<Val>,
    results: Vec<Val>,
}

/// Builds the body of one kernel.
pub struct Emit {
    out: String,
    next: usize,
    depth: usize,
    space: &'static str,
    loc: String,
    has: Instructions,
    /// Where tile registers are in memory, for targets without them.
    tiles: Option<Val>,
    /// Of values that were rounded to 16 bits: to which dtype, and what a store of them writes.
    rounded: HashMap<usize, (Narrow, Val)>,
    /// Whether asking for cache lines ahead pays: GPUs hide latency by other threads.
    pub prefetches: bool,
}

impl Emit {
    /// An empty body; pointers live in the address space `space` (empty for the default one).
    pub fn new(space: &'static str) -> Self {
        Self {
            out: String::new(),
            next: 0,
            depth: 2,
            space,
            loc: String::new(),
            has: Instructions::default(),
            tiles: None,
            rounded: HashMap::new(),
            prefetches: false,
        }
    }

    /// Says what the target has.
    pub fn with(mut self, has: Instructions) -> Self {
        self.has = has;
        self
    }

    /// Whether tile registers are memory.
    pub fn tiles_in_memory(&self) -> bool {
        self.tiles.is_some()
    }

    /// Sets the location that the ops that follow carry, as MLIR text inside `loc(…)`.
    pub fn at(&mut self, loc: &str) {
        self.loc = if loc.is_empty() { String::new() } else { format!(" loc({loc})") };
    }

    /// A value that the surrounding function defines: `%name`s are numbered like all values.
    pub fn argument(&mut self, ty: Ty) -> Val {
        self.next += 1;
        Val { id: self.next - 1, ty }
    }

    /// The text of the body.
    pub fn finish(self) -> String {
        self.out
    }

    /// MLIR's spelling of a type.
    pub fn ty(&self, ty: Ty) -> String {
        match ty {
            Ty::I1 => "i1".into(),
            Ty::I8 => "i8".into(),
            Ty::I16 => "i16".into(),
            Ty::I32 => "i32".into(),
            Ty::I64 => "i64".into(),
            Ty::F32 => "f32".into(),
            Ty::Ptr | Ty::Ptr16(_) => format!("!llvm.ptr{}", self.space),
            Ty::VecI1(n) => format!("vector<{n}xi1>"),
            Ty::VecI16(n) => format!("vector<{n}xi16>"),
            Ty::VecI32(n) => format!("vector<{n}xi32>"),
            Ty::Vec(n) => format!("vector<{n}xf32>"),
        }
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{:indent$}{text}{}", "", self.loc, indent = self.depth * 2);
    }

    /// Emits `%r = text` with a result of type `ty`.
    pub fn def(&mut self, ty: Ty, text: &str) -> Val {
        let v = self.argument(ty);
        self.line(&format!("{v} = {text}"));
        v
    }

    /// An integer constant.
    pub fn int(&mut self, n: i64) -> Val {
        self.def(Ty::I64, &format!("arith.constant {n} : i64"))
    }

    /// An f32 constant with the lanes of `ty`.
    pub fn float(&mut self, x: f64, ty: Ty) -> Val {
        let bits = (x as f32).to_bits();
        let (f, t) = (ty.float(), self.ty(ty.float()));
        match f {
            Ty::F32 => self.def(f, &format!("arith.constant 0x{bits:08X} : f32")),
            _ => self.def(f, &format!("arith.constant dense<0x{bits:08X}> : {t}")),
        }
    }

    /// An i32 constant with the lanes of `ty`.
    pub fn int32(&mut self, n: i32, ty: Ty) -> Val {
        let (i, t) = (ty.int(), self.ty(ty.int()));
        match i {
            Ty::I32 => self.def(i, &format!("arith.constant {n} : i32")),
            _ => self.def(i, &format!("arith.constant dense<{n}> : {t}")),
        }
    }

    fn binary(&mut self, op: &str, a: Val, b: Val) -> Val {
        let t = self.ty(a.ty);
        self.def(a.ty, &format!("arith.{op} {a}, {b} : {t}"))
    }

    /// Sum of integers or floats.
    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.binary(if is_float(a.ty) { "addf" } else { "addi" }, a, b)
    }

    /// Difference.
    pub fn sub(&mut self, a: Val, b: Val) -> Val {
        self.binary(if is_float(a.ty) { "subf" } else { "subi" }, a, b)
    }

    /// `a · b`.
    pub fn mul(&mut self, a: Val, b: Val) -> Val {
        self.binary(if is_float(a.ty) { "mulf" } else { "muli" }, a, b)
    }

    /// Quotient of floats, or of non-negative integers.
    pub fn div(&mut self, a: Val, b: Val) -> Val {
        self.binary(if is_float(a.ty) { "divf" } else { "divui" }, a, b)
    }

    /// Remainder of non-negative integers.
    pub fn rem(&mut self, a: Val, b: Val) -> Val {
        self.binary("remui", a, b)
    }

    /// Larger of two floats or non-negative integers.
    pub fn max(&mut self, a: Val, b: Val) -> Val {
        self.binary(if is_float(a.ty) { "maximumf" } else { "maxsi" }, a, b)
    }

    /// Smaller of two floats or non-negative integers.
    pub fn min(&mut self, a: Val, b: Val) -> Val {
        self.binary(if is_float(a.ty) { "minimumf" } else { "minsi" }, a, b)
    }

    /// Another arith op of two operands of one type: `andi`, `ori`, `shli`, `shrsi`, ….
    pub fn arith(&mut self, op: &str, a: Val, b: Val) -> Val {
        self.binary(op, a, b)
    }

    /// `n · a` for an index.
    pub fn scale(&mut self, a: Val, n: usize) -> Val {
        if n == 1 {
            return a;
        }
        let n = self.int(n as i64);
        self.mul(a, n)
    }

    /// `-a`.
    pub fn neg(&mut self, a: Val) -> Val {
        let t = self.ty(a.ty);
        self.def(a.ty, &format!("arith.negf {a} : {t}"))
    }

    /// `a·b + c`, rounded once.
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> Val {
        let t = self.ty(a.ty);
        self.def(a.ty, &format!("llvm.intr.fma({a}, {b}, {c}) : ({t}, {t}, {t}) -> {t}"))
    }

    /// Square root.
    pub fn sqrt(&mut self, a: Val) -> Val {
        let t = self.ty(a.ty);
        self.def(a.ty, &format!("llvm.intr.sqrt({a}) : ({t}) -> {t}"))
    }

    /// Absolute value.
    pub fn abs(&mut self, a: Val) -> Val {
        let t = self.ty(a.ty);
        self.def(a.ty, &format!("llvm.intr.fabs({a}) : ({t}) -> {t}"))
    }

    /// Comparison with MLIR's predicate (`olt`, `oge`, `slt`, `eq`, …).
    pub fn cmp(&mut self, predicate: &str, a: Val, b: Val) -> Val {
        let t = self.ty(a.ty);
        let (op, n) = (if is_float(a.ty) { "cmpf" } else { "cmpi" }, a.ty.lanes());
        let out = if n > 1 { Ty::VecI1(n) } else { Ty::I1 };
        self.def(out, &format!("arith.{op} {predicate}, {a}, {b} : {t}"))
    }

    /// `c ? a : b`.
    pub fn select(&mut self, c: Val, a: Val, b: Val) -> Val {
        let (tc, t) = (self.ty(c.ty), self.ty(a.ty));
        self.def(a.ty, &format!("arith.select {c}, {a}, {b} : {tc}, {t}"))
    }

    /// The same bits as another type of the same width.
    pub fn bitcast(&mut self, a: Val, to: Ty) -> Val {
        let (ta, t) = (self.ty(a.ty), self.ty(to));
        self.def(to, &format!("arith.bitcast {a} : {ta} to {t}"))
    }

    /// i32 (or a vector) to f32.
    pub fn to_float(&mut self, a: Val) -> Val {
        let (ta, to) = (self.ty(a.ty), a.ty.float());
        let t = self.ty(to);
        self.def(to, &format!("arith.sitofp {a} : {ta} to {t}"))
    }

    /// i64 to i32.
    pub fn narrow(&mut self, a: Val) -> Val {
        self.def(Ty::I32, &format!("arith.trunci {a} : i64 to i32"))
    }

    /// i32 to i64.
    pub fn widen(&mut self, a: Val) -> Val {
        self.def(Ty::I64, &format!("arith.extsi {a} : i32 to i64"))
    }

    /// A scalar in every one of `n` lanes; itself when `n` is 1.
    pub fn splat(&mut self, a: Val, n: usize) -> Val {
        if n == 1 || a.ty.lanes() == n {
            return a;
        }
        let to = if a.ty == Ty::F32 { Ty::Vec(n) } else { Ty::VecI32(n) };
        let (ta, t) = (self.ty(a.ty), self.ty(to));
        self.def(to, &format!("vector.broadcast {a} : {ta} to {t}"))
    }

    /// 0, 1, 2, … as i32 lanes.
    pub fn lane_ids(&mut self, n: usize) -> Val {
        let t = self.ty(Ty::VecI32(n));
        let items: Vec<String> = (0..n).map(|i| i.to_string()).collect();
        self.def(Ty::VecI32(n), &format!("arith.constant dense<[{}]> : {t}", items.join(", ")))
    }

    /// A mask of the lanes of the `j`-th vector of `n` that are among the first `count`.
    pub fn first_lanes(&mut self, n: usize, j: usize, count: Val) -> Val {
        let start = self.int((j * n) as i64);
        let left = self.sub(count, start);
        let left = self.narrow(left);
        let left = self.splat(left, n);
        let ids = self.lane_ids(n);
        self.cmp("slt", ids, left)
    }

    /// A mask of the first `count` of `n` lanes, known when the kernel is built.
    pub fn mask(&mut self, count: usize, n: usize) -> Val {
        let items: Vec<&str> = (0..n).map(|i| if i < count { "true" } else { "false" }).collect();
        let t = self.ty(Ty::VecI1(n));
        self.def(Ty::VecI1(n), &format!("arith.constant dense<[{}]> : {t}", items.join(", ")))
    }

    /// Whether two pointers differ.
    pub fn differ(&mut self, a: Val, b: Val) -> Val {
        let t = self.ty(a.ty);
        self.def(Ty::I1, &format!("llvm.icmp \"ne\" {a}, {b} : {t}"))
    }

    /// Pointer to element `index` after `base`.
    pub fn element(&mut self, base: Val, index: Val) -> Val {
        let (p, e) = (self.ty(base.ty), element_type(base));
        self.def(base.ty, &format!("llvm.getelementptr {base}[{index}] : ({p}, i64) -> {p}, {e}"))
    }

    /// Pointer to element `index`, a constant.
    pub fn element_at(&mut self, base: Val, index: usize) -> Val {
        if index == 0 {
            return base;
        }
        let (p, e) = (self.ty(base.ty), element_type(base));
        self.def(base.ty, &format!("llvm.getelementptr {base}[{index}] : ({p}) -> {p}, {e}"))
    }

    /// Loads a value of type `ty` (element alignment) from `p`.
    pub fn load(&mut self, ty: Ty, p: Val) -> Val {
        if let Ty::Ptr16(dtype) = p.ty {
            return self.load_narrow(ty, dtype, p, None);
        }
        let (tp, t) = (self.ty(Ty::Ptr), self.ty(ty));
        let align = if matches!(ty, Ty::Ptr | Ty::Ptr16(_)) { 8 } else { 4 };
        self.def(ty, &format!("llvm.load {p} {{alignment = {align} : i64}} : {tp} -> {t}"))
    }

    /// Stores `v` (element alignment) to `p`.
    pub fn store(&mut self, v: Val, p: Val) {
        if let Ty::Ptr16(dtype) = p.ty {
            return self.store_narrow(v, dtype, p, None);
        }
        let (tp, t) = (self.ty(Ty::Ptr), self.ty(v.ty));
        self.line(&format!("llvm.store {v}, {p} {{alignment = 4 : i64}} : {t}, {tp}"));
    }

    /// Asks for the cache line at `p`, which may lie anywhere: into the first-level cache, or (`far`) the second.
    /// Nothing where that does not pay.
    pub fn prefetch(&mut self, p: Val, far: bool) {
        if !self.prefetches {
            return;
        }
        let (tp, hint) = (self.ty(p.ty), if far { 2 } else { 3 });
        self.line(&format!(
            "\"llvm.intr.prefetch\"({p}) <{{cache = 1 : i32, hint = {hint} : i32, rw = 0 : i32}}> : ({tp}) -> ()"
        ));
    }

    /// Number of this GPU thread within the whole grid.
    pub fn thread_id(&mut self, target: neoxc_ir::target::Target) -> Val {
        let names = match target.family() {
            neoxc_ir::target::Family::Nvidia => {
                ["llvm.nvvm.read.ptx.sreg.tid.x", "llvm.nvvm.read.ptx.sreg.ctaid.x"]
            }
            _ => ["llvm.amdgcn.workitem.id.x", "llvm.amdgcn.workgroup.id.x"],
        };
        let mut read = |name: &str| {
            let v = self.def(Ty::I32, &format!("llvm.call_intrinsic \"{name}\"() : () -> i32"));
            self.widen(v)
        };
        let (thread, block) = (read(names[0]), read(names[1]));
        let first = self.scale(block, crate::gpu::BLOCK_THREADS);
        self.add(first, thread)
    }

    /// Loads the lanes that `mask` selects; others are zero.
    pub fn load_masked(&mut self, p: Val, mask: Val) -> Val {
        self.load_masked_as(Ty::Vec(mask.ty.lanes()), p, mask)
    }

    /// The same for any vector of the mask's lanes.
    pub fn load_masked_as(&mut self, ty: Ty, p: Val, mask: Val) -> Val {
        if let Ty::Ptr16(dtype) = p.ty {
            return self.load_narrow(ty, dtype, p, Some(mask));
        }
        let zero = if is_float(ty) { self.float(0.0, ty) } else { self.int32(0, ty) };
        let (tp, tm, t) = (self.ty(Ty::Ptr), self.ty(mask.ty), self.ty(ty));
        self.def(
            ty,
            &format!(
                "llvm.intr.masked.load {p}, {mask}, {zero} {{alignment = 4 : i32}} : ({tp}, {tm}, {t}) -> {t}"
            ),
        )
    }

    /// Stores the lanes that `mask` selects.
    pub fn store_masked(&mut self, v: Val, p: Val, mask: Val) {
        if let Ty::Ptr16(dtype) = p.ty {
            return self.store_narrow(v, dtype, p, Some(mask));
        }
        let (tp, tm, t) = (self.ty(Ty::Ptr), self.ty(mask.ty), self.ty(v.ty));
        self.line(&format!(
            "llvm.intr.masked.store {v}, {p}, {mask} {{alignment = 4 : i32}} : {t}, {tm} into {tp}"
        ));
    }

    /// `for i in lo..hi step by { … }` with values handed from one iteration to the next.
    pub fn for_(
        &mut self,
        lo: Val,
        hi: Val,
        step: Val,
        init: &[Val],
        body: impl FnOnce(&mut Self, Val, &[Val]) -> Vec<Val>,
    ) -> Vec<Val> {
        let open = self.begin_for(lo, hi, step, init);
        let out = body(self, open.i, &open.carried);
        self.end_for(open, &out)
    }

    /// The head of such a loop: what follows is its body, until [`Emit::end_for`]. For bodies that may fail, or
    /// need more than the builder.
    pub fn begin_for(&mut self, lo: Val, hi: Val, step: Val, init: &[Val]) -> OpenLoop {
        let results: Vec<Val> = init.iter().map(|v| self.argument(v.ty)).collect();
        let i = self.argument(Ty::I64);
        let carried: Vec<Val> = init.iter().map(|v| self.argument(v.ty)).collect();
        // A multi-result op is named once; results are `%first#k`, aliased at the end.
        let head = if init.is_empty() {
            format!("scf.for {i} = {lo} to {hi} step {step} : i64 {{")
        } else {
            let pairs: Vec<String> =
                carried.iter().zip(init).map(|(a, b)| format!("{a} = {b}")).collect();
            format!(
                "%f{}:{} = scf.for {i} = {lo} to {hi} step {step} iter_args({}) -> ({}) : i64 {{",
                i.id,
                init.len(),
                pairs.join(", "),
                self.types(init)
            )
        };
        self.open(&head);
        OpenLoop { i, carried, results }
    }

    /// Ends the loop; `out` goes to the next iteration. Gives what the last one hands on.
    pub fn end_for(&mut self, open: OpenLoop, out: &[Val]) -> Vec<Val> {
        let OpenLoop { i, results, .. } = open;
        if !results.is_empty() {
            let names: Vec<String> = out.iter().map(Val::to_string).collect();
            let types = self.types(&results);
            self.line(&format!("scf.yield {} : {types}", names.join(", ")));
        }
        self.close();
        for (k, r) in results.iter().enumerate() {
            self.rename(*r, &format!("%f{}#{k}", i.id));
        }
        results
    }

    /// Types of values, as a list in text.
    fn types(&self, values: &[Val]) -> String {
        values.iter().map(|v| self.ty(v.ty)).collect::<Vec<_>>().join(", ")
    }

    /// A loop without carried values.
    pub fn loop_(&mut self, lo: Val, hi: Val, step: usize, body: impl FnOnce(&mut Self, Val)) {
        let step = self.int(step as i64);
        self.for_(lo, hi, step, &[], |k, i, _| {
            body(k, i);
            vec![]
        });
    }

    /// A loop over `0..n` without carried values.
    pub fn count(&mut self, n: usize, body: impl FnOnce(&mut Self, Val)) {
        let (lo, hi) = (self.int(0), self.int(n as i64));
        self.loop_(lo, hi, 1, body);
    }

    /// `if c { … }`.
    pub fn if_(&mut self, c: Val, body: impl FnOnce(&mut Self)) {
        self.begin_if(c);
        body(self);
        self.end_if();
    }

    /// The head of an `if`: what follows is done where `c` holds, until [`Emit::end_if`].
    pub fn begin_if(&mut self, c: Val) {
        self.open(&format!("scf.if {c} {{"));
    }

    /// Ends the innermost `if`.
    pub fn end_if(&mut self) {
        self.close();
    }

    fn open(&mut self, head: &str) {
        let _ = writeln!(self.out, "{:indent$}{head}", "", indent = self.depth * 2);
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    /// Gives `v` a second spelling by an op that changes nothing and that LLVM removes.
    fn rename(&mut self, v: Val, name: &str) {
        let t = self.ty(v.ty);
        match v.ty {
            Ty::Ptr | Ty::Ptr16(_) => {
                self.line(&format!("{v} = llvm.bitcast {name} : {t} to {t}"));
            }
            _ => self.line(&format!("{v} = arith.bitcast {name} : {t} to {t}")),
        }
    }

    /// Sum of the lanes in a fixed order: halves are added until one lane is left.
    pub fn reduce_add(&mut self, v: Val) -> Val {
        self.reduce(v, |k, a, b| k.add(a, b))
    }

    /// Largest lane.
    pub fn reduce_max(&mut self, v: Val) -> Val {
        self.reduce(v, |k, a, b| k.max(a, b))
    }

    fn reduce(&mut self, mut v: Val, f: impl Fn(&mut Self, Val, Val) -> Val) -> Val {
        if v.ty.lanes() == 1 {
            return v;
        }
        while v.ty.lanes() > 2 {
            let n = v.ty.lanes() / 2;
            let (low, high) = (self.part(v, 0, n), self.part(v, n, n));
            v = f(self, low, high);
        }
        let t = self.ty(v.ty);
        let a = self.def(Ty::F32, &format!("vector.extract {v}[0] : f32 from {t}"));
        let b = self.def(Ty::F32, &format!("vector.extract {v}[1] : f32 from {t}"));
        f(self, a, b)
    }

    fn part(&mut self, v: Val, start: usize, n: usize) -> Val {
        let (t, to) = (self.ty(v.ty), self.ty(Ty::Vec(n)));
        self.def(
            Ty::Vec(n),
            &format!("vector.extract_strided_slice {v} {{offsets = [{start}], sizes = [{n}], strides = [1]}} : {t} to {to}"),
        )
    }
}

impl std::fmt::Display for Val {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%v{}", self.id)
    }
}

/// What a pointer points to, in MLIR.
fn element_type(p: Val) -> &'static str {
    if matches!(p.ty, Ty::Ptr16(_)) { "i16" } else { "f32" }
}

fn is_float(ty: Ty) -> bool {
    matches!(ty, Ty::F32 | Ty::Vec(_))
}
