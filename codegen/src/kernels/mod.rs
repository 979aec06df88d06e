//! Kernel families: from a kernel function of the IR to MLIR.
//!
//! A family is one file that owns its schedule. All kernels have one signature,
//! `NAME(ptr args, i64 begin, i64 end, ptr scratch)`; see `docs/design/contracts.md`.

mod attention;
mod attention_grad;
mod cached_attention;
mod columnwise;
mod copy;
mod cross_entropy;
mod cross_entropy_parts;
mod dropout;
mod expr;
mod grouped_sum;
mod iota;
mod matmul;
mod move_tokens;
mod pack;
mod qkv;
mod route;
mod rows;
mod rowwise;
mod simplify;
mod space;
mod tuned;

use neoxc_ir::target::Target;
use neoxc_ir::{DType, Function, Loc, Module, Op, ValueId, keys};

use crate::CodegenError;
use crate::emit::{Emit, Narrow, Ty, Val};
use crate::x86::Cpu;

pub use matmul::Cut;
pub use tuned::{Choice, Ties, Tuned};

/// A kernel ready to be compiled.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Name of the kernel function and of the symbol.
    pub symbol: String,
    /// The MLIR module.
    pub mlir: String,
    /// Number of independent tasks.
    pub tasks: u64,
    /// Private scratch per thread.
    pub scratch_bytes: u64,
    /// Of a matmul that can be cut into tasks in several ways: these.
    pub ties: Option<Ties>,
    /// Whether its loops are unrolled where it is written, so that looking for more to unroll is time lost.
    pub unrolled: bool,
}

/// What a family gives back besides the emitted body.
pub(crate) struct Shape {
    tasks: usize,
    scratch_floats: usize,
    /// Whether it uses AMX's tile registers.
    tiles: bool,
}

/// Symbol of a library whose kernels use AMX's tile registers.
const USES_TILES: &str = "neoxc_uses_amx_tiles";

/// A kernel under construction.
pub(crate) struct Body<'a> {
    /// The kernel function, composites expanded.
    f: &'a Function,
    /// The builder.
    k: Emit,
    /// Pointers of parameters, then results.
    pointers: Vec<Val>,
    begin: Val,
    end: Val,
    scratch: Val,
    /// f32 lanes of the target.
    lanes: usize,
    /// What shapes schedules.
    cpu: Cpu,
    /// Which cut a matmul gets.
    choice: Choice<'a>,
    /// What it may be cut into.
    ties: Option<Ties>,
    /// Whether loops are unrolled here already.
    unrolled: bool,
}

impl Body<'_> {
    fn fail(&self, message: impl Into<String>) -> CodegenError {
        CodegenError::kernel(&self.f.name, message)
    }

    /// Pointer of parameter `v`.
    fn param(&self, v: ValueId) -> Option<Val> {
        self.f.params.iter().position(|p| *p == v).map(|i| self.pointers[i])
    }

    /// One element of parameter `v`, at `p`.
    fn load_one(&mut self, v: ValueId, p: Val) -> Val {
        let ty = if self.f.ty(v).dtype == DType::I32 { Ty::I32 } else { Ty::F32 };
        self.k.load(ty, p)
    }

    /// A vector of parameter `v` from `p` on; lanes that `mask` leaves out are zero.
    fn load_lanes(&mut self, v: ValueId, p: Val, mask: Option<Val>) -> Val {
        let int = self.f.ty(v).dtype == DType::I32;
        let ty = if int { Ty::VecI32(self.lanes) } else { Ty::Vec(self.lanes) };
        match mask {
            None => self.k.load(ty, p),
            Some(mask) => self.k.load_masked_as(ty, p, mask),
        }
    }

    /// What the pointwise `op` makes of `args`, rounded if its result has 16 bits.
    fn pointwise(&mut self, op: &Op, args: &[Val]) -> Result<Val, CodegenError> {
        let v = expr::pointwise(&mut self.k, op, args)
            .ok_or_else(|| self.fail(format!("`{}` is not pointwise", op.kind.name())))?;
        Ok(match self.f.ty(op.results[0]).dtype {
            DType::Bf16 => self.k.round_to(Narrow::Bf16, v),
            DType::F16 => self.k.round_to(Narrow::F16, v),
            _ => v,
        })
    }

    /// Places in scratch of so many floats each, one behind the other.
    fn places<const N: usize>(&mut self, parts: [usize; N]) -> [Val; N] {
        let mut at = self.scratch;
        parts.map(|floats| {
            let here = at;
            at = self.k.element_at(here, floats);
            here
        })
    }

    /// Pointer of result number `i`.
    fn result(&self, i: usize) -> Val {
        self.pointers[self.f.params.len() + i]
    }

    /// The task loop.
    fn tasks(
        &mut self,
        body: impl FnOnce(&mut Self, Val) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let (begin, end) = (self.begin, self.end);
        self.nest(begin, end, 1, body)
    }

    /// A loop whose body may fail and sees the whole kernel.
    fn nest(
        &mut self,
        lo: Val,
        hi: Val,
        step: usize,
        body: impl FnOnce(&mut Self, Val) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let step = self.k.int(step as i64);
        let open = self.k.begin_for(lo, hi, step, &[]);
        body(self, open.i)?;
        self.k.end_for(open, &[]);
        Ok(())
    }
}

/// What every target's entry needs first: family, expanded body, a builder with a location.
fn start(module: &Module, f: &Function) -> Result<(String, Function, Emit), CodegenError> {
    let family = f
        .attrs
        .str(keys::KERNEL)
        .ok_or_else(|| CodegenError::kernel(&f.name, "is not a kernel function"))?
        .to_string();
    let keep: &[&str] = match family.as_str() {
        "matmul" => &["qkv_split", "rotary"],
        "rowwise" | "columnwise" => &[],
        _ => &["*"],
    };
    Ok((family, simplify::primitives(module, f, keep)?, Emit::new("")))
}

/// The pointer types of a kernel's arguments: its parameters, then its results.
fn pointer_types(f: &Function) -> Result<Vec<Ty>, CodegenError> {
    f.params
        .iter()
        .chain(&f.results)
        .map(|v| match f.ty(*v).dtype {
            DType::F32 | DType::I32 => Ok(Ty::Ptr),
            DType::Bf16 => Ok(Ty::Ptr16(Narrow::Bf16)),
            DType::F16 => Ok(Ty::Ptr16(Narrow::F16)),
            other => {
                Err(CodegenError::kernel(&f.name, format!("has no {} in memory", other.name())))
            }
        })
        .collect()
}

fn emit_family(family: &str, body: &mut Body<'_>) -> Result<Shape, CodegenError> {
    match family {
        "matmul" => matmul::emit(body),
        "rowwise" => rowwise::emit(body),
        "columnwise" => columnwise::emit(body),
        "attention" => attention::emit(body),
        "attention_grad" => attention_grad::emit(body),
        "cached_attention" => cached_attention::emit(body),
        "cross_entropy" => cross_entropy::emit(body),
        "iota" => iota::emit(body),
        "gather_rows" => rows::gather(body),
        "grouped_sum" => grouped_sum::emit(body),
        "move_tokens" => move_tokens::emit(body),
        "route" => route::emit(body),
        "scatter_rows" => rows::scatter(body),
        "qkv_split" => qkv::split(body),
        "qkv_merge" => qkv::merge(body),
        "rotary" => qkv::rotary(body),
        "copy" => copy::emit(body),
        other => Err(body.fail(format!("no family `{other}`"))),
    }
}

/// A kernel from its signature and finished body.
fn finish(f: &Function, signature: &str, body: Body<'_>, shape: &Shape) -> Kernel {
    let (ties, unrolled) = (body.ties, body.unrolled);
    let tiles = shape.tiles && !body.k.tiles_in_memory();
    // For `neoxc explain`; a comment to MLIR.
    let note = ties.as_ref().map_or(String::new(), |t| {
        let measured =
            if t.cuts.first() == Some(&t.taken) { "" } else { ", as measured by neoxc tune" };
        format!("  // tasks of {} x {}{measured}\n", t.taken.rows, t.taken.columns)
    });
    let text = body.k.finish();
    // The runtime asks the system for the tile registers where a library has this symbol.
    let mark = match tiles {
        true => format!("  llvm.func weak @{USES_TILES}() {{\n    llvm.return\n  }}\n"),
        false => String::new(),
    };
    Kernel {
        symbol: f.name.clone(),
        mlir: format!(
            "module {{\n{note}  func.func @{}({signature}) {{\n{text}    return\n  }}\n{mark}}}\n",
            f.name
        ),
        tasks: shape.tasks as u64,
        scratch_bytes: (shape.scratch_floats * 4) as u64,
        ties,
        unrolled,
    }
}

/// Builds the kernel of a kernel function for an x86 target.
pub fn build(module: &Module, f: &Function, target: Target) -> Result<Kernel, CodegenError> {
    build_for(module, f, target, Cpu::of(target), Choice::Model)
}

/// The same for a core other than the target's own, of which the target has every instruction, and with other cuts
/// than the model's.
pub fn build_for(
    module: &Module,
    f: &Function,
    target: Target,
    cpu: Cpu,
    choice: Choice<'_>,
) -> Result<Kernel, CodegenError> {
    let (family, simple, mut k) = start(module, f)?;
    k.prefetches = true;
    let args = k.argument(Ty::Ptr);
    let (begin, end) = (k.argument(Ty::I64), k.argument(Ty::I64));
    let scratch = k.argument(Ty::Ptr);
    k = k.with(crate::x86::instructions(target));
    k.at(&location(f));
    let pointers = pointer_types(&simple)?
        .into_iter()
        .enumerate()
        .map(|(i, ty)| {
            let slot = k.def(
                Ty::Ptr,
                &format!("llvm.getelementptr {args}[{i}] : (!llvm.ptr) -> !llvm.ptr, !llvm.ptr"),
            );
            k.load(ty, slot)
        })
        .collect();
    let (lanes, ties, unrolled) = (cpu.lanes, None, false);
    let mut body =
        Body { f: &simple, k, pointers, begin, end, scratch, lanes, cpu, choice, ties, unrolled };
    let shape = emit_family(&family, &mut body)?;
    let signature = format!("{args}: !llvm.ptr, {begin}: i64, {end}: i64, {scratch}: !llvm.ptr");
    Ok(finish(f, &signature, body, &shape))
}

/// Builds the kernel for a GPU: a pointer per operand and result, the scratch buffer, its bytes per
/// thread divided by four, and the number of tasks. One thread runs one task; the schedule inside a
/// task is the CPU's with short vectors.
pub fn build_gpu(module: &Module, f: &Function, target: Target) -> Result<Kernel, CodegenError> {
    let (family, simple, mut k) = start(module, f)?;
    let pointers: Vec<Val> = pointer_types(&simple)?.into_iter().map(|ty| k.argument(ty)).collect();
    let scratch = k.argument(Ty::Ptr);
    let (stride, tasks) = (k.argument(Ty::I64), k.argument(Ty::I64));
    let mut parts: Vec<String> = pointers.iter().map(|p| format!("{p}: !llvm.ptr")).collect();
    parts.push(format!("{scratch}: !llvm.ptr, {stride}: i64, {tasks}: i64"));
    k.at(&location(f));
    let thread = k.thread_id(target);
    let one = k.int(1);
    let next = k.add(thread, one);
    let (begin, end) = (k.min(thread, tasks), k.min(next, tasks));
    let own = k.mul(thread, stride);
    let scratch = k.element(scratch, own);
    let lanes = crate::gpu::LANES;
    let cpu = Cpu { lanes, ..Cpu::of(Target::X86V3) };
    let (choice, ties, unrolled) = (Choice::Model, None, false);
    let mut body =
        Body { f: &simple, k, pointers, begin, end, scratch, lanes, cpu, choice, ties, unrolled };
    let shape = emit_family(&family, &mut body)?;
    Ok(finish(f, &parts.join(", "), body, &shape))
}

/// The location of a kernel as MLIR text: the places of its ops.
fn location(f: &Function) -> String {
    let loc = Loc::fuse(f.ops.iter().map(|op| &op.loc));
    fn text(loc: &Loc) -> String {
        match loc {
            Loc::Unknown => String::new(),
            Loc::File { file, line, column } => {
                let mut s = String::new();
                let _ = neoxc_ir::attrs::write_quoted(&mut s, file);
                format!("{s}:{line}:{column}")
            }
            Loc::Fused(inner) => {
                let parts: Vec<String> = inner.iter().map(text).collect();
                format!("fused[{}]", parts.join(", "))
            }
        }
    }
    text(&loc)
}
