//! Speed of single kernels on one core, beside the core's measured FMA peak.
//!
//! `cargo bench -p neoxc-codegen --bench kernel_bench [-- FILTER]` prints, for each kernel whose
//! name contains FILTER, the time of one call over all tasks (of each stretch of tasks the best of several),
//! GFLOP/s, the share of the peak, and what building and compiling it cost. With KEEP=FOLDER (an absolute path) in the
//! environment, the MLIR and the shared object of each kernel are left there. Kernels whose names end in `_bf16`
//! have bfloat16 operands and results, and the peak of what multiplies those; BF16=dot or BF16=widen takes a slower
//! way than the machine's best.
//!
//! `kernel_bench sdpa [FILTER]` times attention on all cores, and PyTorch's on as many, in turn; PEER_PYTHON names a
//! python with torch, by its absolute path. FILTER is part of `DTYPE BATCH × HEADS × SEQUENCE × WIDTH`.

mod sdpa;

use std::time::Instant;

use neoxc_codegen::{
    kernels::{self, Choice},
    x86::{self, Bf16, Cpu},
};
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, TensorType, ValueId};

type Error = Box<dyn std::error::Error>;
type Entry = unsafe extern "C" fn(*const *mut u8, i64, i64, *mut u8);
type Dims<'a> = &'a [(&'a str, usize)];

/// A kernel function and the floating-point operations of one call.
struct Case {
    f: Function,
    flops: f64,
}

fn kernel(
    name: &str,
    family: &str,
    params: &[Dims<'_>],
    dtype: DType,
    flops: f64,
    body: impl FnOnce(&mut Builder<'_>, &[ValueId]) -> Result<Vec<ValueId>, Error>,
) -> Result<Case, Error> {
    let dims = |dims: &Dims<'_>| dims.iter().map(|(n, s)| Dim::new(n, *s)).collect();
    let types = params.iter().map(|p| TensorType::new(dtype, dims(p))).collect();
    typed(name, family, types, flops, body)
}

fn typed(
    name: &str,
    family: &str,
    params: Vec<TensorType>,
    flops: f64,
    body: impl FnOnce(&mut Builder<'_>, &[ValueId]) -> Result<Vec<ValueId>, Error>,
) -> Result<Case, Error> {
    let mut f = Function::new(name);
    f.attrs.set("neox.kernel", Attr::Str(family.into()));
    let params = params.into_iter().enumerate();
    let ids: Vec<ValueId> =
        params.map(|(i, ty)| f.add_param(&format!("p{i}"), ty, Attrs::new())).collect();
    f.results = body(&mut Builder::new(&mut f), &ids)?;
    Ok(Case { f, flops })
}

/// Forward, data gradient and weight gradient of one linear layer of `t` tokens.
fn linear(name: &str, t: usize, inputs: usize, outputs: usize) -> Result<Vec<Case>, Error> {
    let x = [("seq", t), ("embed", inputs)];
    let y = [("seq", t), ("ffn", outputs)];
    let w = [("ffn", outputs), ("embed", inputs)];
    let flops = 2.0 * (t * inputs * outputs) as f64;
    let mut cases = vec![];
    for (dtype, end) in [(DType::F32, ""), (DType::Bf16, "_bf16")] {
        let mut matmul = |suffix: &str, a: Dims<'_>, b: Dims<'_>, over: &str, to: DType| {
            let name = format!("{name}_{suffix}{end}");
            cases.push(kernel(&name, "matmul", &[a, b], dtype, flops, |k, p| {
                let y = k.matmul(p[0], p[1], &[over])?;
                Ok(vec![k.cast(y, to)?])
            })?);
            Ok::<_, Error>(())
        };
        matmul("forward", &x, &w, "embed", dtype)?;
        matmul("dx", &y, &w, "ffn", dtype)?;
        matmul("dw", &y, &x, "seq", DType::F32)?;
    }
    Ok(cases)
}

/// One token times a matrix. Reading weights bounds it: two operations per weight.
fn row(inputs: usize, outputs: usize) -> Result<Vec<Case>, Error> {
    let x = [("seq", 1), ("embed", inputs)];
    let w = [("ffn", outputs), ("embed", inputs)];
    let flops = 2.0 * (inputs * outputs) as f64;
    [(DType::F32, ""), (DType::Bf16, "_bf16")]
        .into_iter()
        .map(|(dtype, end)| {
            kernel(
                &format!("row_{inputs}x{outputs}{end}"),
                "matmul",
                &[&x, &w],
                dtype,
                flops,
                |k, p| Ok(vec![k.matmul(p[0], p[1], &["embed"])?]),
            )
        })
        .collect()
}

/// The gradient of a bias of `t` tokens, which only reads: its operations are additions.
fn columns(t: usize, width: usize) -> Result<Case, Error> {
    let name = format!("columns_{width}");
    let flops = (t * width) as f64;
    let x = [("seq", t), ("embed", width)];
    kernel(&name, "columnwise", &[&x], DType::F32, flops, |k, p| {
        Ok(vec![k.reduce_sum(p[0], &["seq"])?])
    })
}

/// Sizes of an attention.
#[derive(Clone, Copy)]
struct Size {
    batch: usize,
    heads: usize,
    seq: usize,
    width: usize,
}

/// Forward and backward.
fn attention(size: Size, dtype: DType) -> Result<Vec<Case>, Error> {
    let Size { batch, heads, seq, width } = size;
    let ty = |dims: Dims<'_>| TensorType::f32(dims).with_dtype(dtype);
    let q = ty(&[("batch", batch), ("heads", heads), ("seq", seq), ("head_dim", width)]);
    let out = ty(&[("batch", batch), ("seq", seq), ("heads", heads), ("head_dim", width)]);
    let lse = TensorType::f32(&[("batch", batch), ("heads", heads), ("seq", seq)]);
    let attrs = Attrs::new().with("scale", Attr::Float(1.0 / (width as f64).sqrt()));
    let grad = attrs.clone();
    // Half of the matmuls of the full square: the causal part.
    let matmul = (batch * heads * seq * seq * width) as f64;
    let end = if dtype == DType::Bf16 { "_bf16" } else { "" };
    let name = format!("attention_{heads}x{width}_{seq}");
    let three = vec![q.clone(), q.clone(), q];
    let six = [&three[..], &[out.clone(), lse, out]].concat();
    Ok(vec![
        typed(&format!("{name}{end}"), "attention", three, 2.0 * matmul, |k, p| {
            Ok(k.op(OpKind::Attention, p, attrs)?)
        })?,
        typed(&format!("{name}_grad{end}"), "attention_grad", six, 5.0 * matmul, |k, p| {
            Ok(k.op(OpKind::AttentionGrad, p, grad)?)
        })?,
    ])
}

/// A loop of independent operations of what multiplies: what the core can do at best. Also its operations per
/// call.
fn peak(lanes: usize, unit: Option<Bf16>) -> Result<(Loaded, f64), Error> {
    let tasks = 4_000;
    let kernel = |body: String| kernels::Kernel {
        symbol: "peak".into(),
        mlir: format!(
            "module {{ func.func @peak(%a: !llvm.ptr, %begin: i64, %end: i64, %s: !llvm.ptr) {{
            %p = llvm.load %a : !llvm.ptr -> !llvm.ptr
            %one = arith.constant 1 : i64
            {body} return }} }}"
        ),
        tasks,
        scratch_bytes: 64,
        ties: None,
        unrolled: false,
    };
    if unit == Some(Bf16::Tiles) {
        let number = |n: usize| format!("%n{n} = arith.constant {n} : i8\n");
        let numbers: String = (0..8).map(number).collect();
        let dot = |n: usize| {
            let (a, b) = (4 + n / 2, 6 + n % 2);
            let name = "llvm.x86.tdpbf16ps";
            format!("llvm.call_intrinsic \"{name}\"(%n{n}, %n{a}, %n{b}) : (i8, i8, i8) -> ()\n")
        };
        let dots: String = (0..4).map(dot).collect();
        let k = kernel(format!(
            "{numbers}
            %c = arith.constant dense<[1, 0, 0, 0, 4194368, 4194368, 4194368, 4194368, 0, 0, 0, 0, 269488144,
              269488144, 0, 0]> : vector<16xi32>
            llvm.store %c, %s {{alignment = 4 : i64}} : vector<16xi32>, !llvm.ptr
            llvm.call_intrinsic \"llvm.x86.ldtilecfg\"(%s) : (!llvm.ptr) -> ()
            scf.for %i = %begin to %end step %one : i64 {{ {dots} }}
            llvm.call_intrinsic \"llvm.x86.tilerelease\"() : () -> ()"
        ));
        let flops = 2.0 * 4.0 * (16 * 16 * 32) as f64 * tasks as f64;
        return Ok((Loaded::new(&k, vec![Aligned::new(64)])?, flops));
    }
    let ty = format!("vector<{lanes}xf32>");
    let th = format!("vector<{}xbf16>", 2 * lanes);
    let dot = unit == Some(Bf16::Dot);
    let n = if lanes == 16 { 24 } else { 12 };
    let list = |f: &dyn Fn(usize) -> String| (0..n).map(f).collect::<Vec<_>>().join(", ");
    let types = list(&|_| ty.clone());
    let body: String = (0..n)
        .map(|i| match dot {
            true => format!(
                "%f{i} = llvm.call_intrinsic \"llvm.x86.avx512bf16.dpbf16ps.{}\"(%x{i}, %h, %h) : ({ty}, {th}, {th}) -> {ty}\n",
                32 * lanes
            ),
            false => format!("%f{i} = llvm.intr.fma(%c, %x{i}, %c) : ({ty}, {ty}, {ty}) -> {ty}\n"),
        })
        .collect();
    let total: String = (1..n)
        .map(|i| {
            let last = if i == 1 { "%r#0".to_string() } else { format!("%s{}", i - 1) };
            format!("%s{i} = arith.addf {last}, %r#{i} : {ty}\n")
        })
        .collect();
    let k = kernel(format!(
        "%c = llvm.load %p {{alignment = 4 : i64}} : !llvm.ptr -> {ty}
        %h = vector.bitcast %c : {ty} to {th}
        %r:{n} = scf.for %i = %begin to %end step %one iter_args({}) -> ({types}) : i64 {{
        {body} scf.yield {} : {types} }}
        {total} llvm.store %s{}, %p {{alignment = 4 : i64}} : {ty}, !llvm.ptr",
        list(&|i| format!("%x{i} = %c")),
        list(&|i| format!("%f{i}")),
        n - 1,
    ));
    let flops = if dot { 4.0 } else { 2.0 } * (n * lanes) as f64 * tasks as f64;
    Ok((Loaded::new(&k, vec![Aligned::new(64)])?, flops))
}

/// Asks the system for AMX's tile registers.
fn allow_tiles() -> Result<(), Error> {
    const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
    const XFEATURE_XTILEDATA: i32 = 18;
    // SAFETY: the call changes nothing but a permission of this process.
    let refused =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    if refused != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

/// Floats on a cache line's boundary, in huge pages where they fill some: as in the memory of a plan.
struct Aligned(Vec<f32>, usize);

impl Aligned {
    fn new(n: usize) -> Self {
        const PAGE: usize = 4096;
        let mut data: Vec<f32> = Vec::with_capacity(n + 16);
        let room = data.spare_capacity_mut();
        let skip = room.as_ptr().align_offset(PAGE).min(room.len());
        let bytes = (room.len() - skip) * 4 / PAGE * PAGE;
        // SAFETY: the pages lie within the vector's own memory, and advice does not change what they hold.
        unsafe {
            libc::madvise(room[skip..].as_mut_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
        }
        // Values of both signs, small enough that sums stay finite; as bfloat16 too.
        data.extend((0..n + 16).map(|i| ((i * 7 % 13) as f32 - 6.0) / 64.0));
        let at = data.as_ptr().align_offset(64);
        Aligned(data, at)
    }

    fn pointer(&mut self) -> *mut u8 {
        self.0[self.1..].as_mut_ptr().cast()
    }
}

/// Seconds that this thread has computed: what others do in between does not count.
fn cpu_time() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// A compiled kernel with its buffers.
struct Loaded {
    library: libloading::Library,
    symbol: String,
    tasks: i64,
    buffers: Vec<Aligned>,
    scratch: Aligned,
}

impl Loaded {
    fn new(k: &kernels::Kernel, buffers: Vec<Aligned>) -> Result<Loaded, Error> {
        let compiled = x86::compile(std::slice::from_ref(k), Target::X86Native, None)?;
        let file = tempfile::NamedTempFile::with_suffix(".so")?;
        std::fs::write(file.path(), &compiled.so)?;
        if let Some(folder) = std::env::var_os("KEEP") {
            let at = std::path::Path::new(&folder).join(&k.symbol);
            std::fs::write(at.with_extension("so"), &compiled.so)?;
            std::fs::write(at.with_extension("mlir"), &k.mlir)?;
        }
        // SAFETY: the library was just made from a kernel, which has no initialisers.
        let library = unsafe { libloading::Library::new(file.path())? };
        Ok(Loaded {
            library,
            symbol: k.symbol.clone(),
            tasks: k.tasks as i64,
            buffers,
            scratch: Aligned::new(k.scratch_bytes as usize / 4 + 16),
        })
    }

    /// Calls the kernel over `[begin, end)` of its tasks and gives the seconds it took.
    fn time(&mut self, begin: i64, end: i64) -> Result<f64, Error> {
        let pointers: Vec<*mut u8> = self.buffers.iter_mut().map(Aligned::pointer).collect();
        // SAFETY: the symbol has the kernel ABI, and every buffer has the size of its tensor.
        unsafe {
            let entry: libloading::Symbol<Entry> = self.library.get(self.symbol.as_bytes())?;
            let start = cpu_time();
            entry(pointers.as_ptr(), begin, end, self.scratch.pointer());
            Ok(cpu_time() - start)
        }
    }
}

/// What measuring found.
struct Measured {
    /// Seconds of all tasks: the least of every stretch of them.
    seconds: f64,
    /// Time of all tasks in runs of the peak loop: each stretch of tasks is timed between two of them, and the
    /// median counts. Others use the machine too; what slows both down does not change this.
    peaks: f64,
}

fn measure(kernel: &mut Loaded, peak: &mut Loaded) -> Result<Measured, Error> {
    let whole = kernel.time(0, kernel.tasks)?;
    let pieces = kernel.tasks.min((whole / 100e-6) as i64 + 1);
    let mut least = vec![f64::INFINITY; pieces as usize];
    let mut ratios = vec![vec![]; pieces as usize];
    let mut spent = 0.0;
    let mut before = peak.time(0, peak.tasks)?;
    while ratios[0].len() < 5 || (spent < 1.0 && ratios[0].len() < 1000) {
        for i in 0..pieces {
            let cut = |i: i64| kernel.tasks * i / pieces;
            let t = kernel.time(cut(i), cut(i + 1))?;
            let after = peak.time(0, peak.tasks)?;
            ratios[i as usize].push(2.0 * t / (before + after));
            least[i as usize] = least[i as usize].min(t);
            before = after;
            spent += t;
        }
    }
    let medians = ratios.iter_mut().map(|r| {
        r.sort_by(f64::total_cmp);
        r[r.len() / 2]
    });
    Ok(Measured { seconds: least.iter().sum(), peaks: medians.sum() })
}

fn main() -> Result<(), Error> {
    // `cargo bench` adds `--bench` to what was asked.
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let filter = arguments.next().unwrap_or_default();
    let mut cpu = Cpu::of(Target::X86Native);
    match std::env::var("BF16").as_deref() {
        Ok("dot") => cpu.bf16 = Bf16::Dot,
        Ok("widen") => cpu.bf16 = Bf16::Widen,
        _ => {}
    }
    if cpu.bf16 == Bf16::Tiles {
        allow_tiles()?;
    }
    if filter == "sdpa" {
        let python = std::env::var("PEER_PYTHON").map_err(|_| "PEER_PYTHON names no python")?;
        return sdpa::compare(&python, cpu, &arguments.next().unwrap_or_default());
    }
    let mut plain = peak(cpu.lanes, None)?;
    let mut pairs = peak(cpu.lanes, Some(cpu.bf16))?;
    println!("one core, {cpu:?}; `share` of what multiplications alone reach, timed in turn\n");
    let mut cases = vec![];
    for h in [128, 512, 768] {
        let t = 2048;
        cases.extend(linear(&format!("qkv_{h}"), t, h, 3 * h)?);
        cases.extend(linear(&format!("dense_{h}"), t, h, h)?);
        cases.extend(linear(&format!("up_{h}"), t, h, 4 * h)?);
        cases.extend(linear(&format!("down_{h}"), t, 4 * h, h)?);
        cases.extend(linear(&format!("head_{h}"), 512, h, 50304)?);
    }
    for (inputs, outputs) in [(512, 2048), (512, 50304), (1024, 50304)] {
        cases.extend(row(inputs, outputs)?);
    }
    for h in [128, 512, 3072] {
        cases.push(columns(2048, h)?);
    }
    for dtype in [DType::F32, DType::Bf16] {
        for (batch, heads, seq, width) in [
            (4, 4, 512, 32),
            (4, 8, 512, 64),
            (1, 4, 2048, 64),
            (1, 4, 2048, 128),
            (1, 1, 8192, 64),
        ] {
            cases.extend(attention(Size { batch, heads, seq, width }, dtype)?);
        }
    }
    println!("kernel                      tasks        ms  GFLOP/s  share   compile");
    for c in cases.iter().filter(|c| c.f.name.contains(&filter)) {
        let start = Instant::now();
        let k = kernels::build_for(&Module::new(), &c.f, Target::X86Native, cpu, Choice::Model)?;
        let all = c.f.params.iter().chain(&c.f.results);
        let buffers = all.map(|v| Aligned::new(c.f.ty(*v).elements())).collect();
        let mut kernel = Loaded::new(&k, buffers)?;
        let cost = start.elapsed().as_secs_f64();
        let (peak, peak_flops) = if c.f.name.ends_with("_bf16") { &mut pairs } else { &mut plain };
        let m = measure(&mut kernel, peak)?;
        println!(
            "{:26} {:6} {:9.3} {:8.1} {:5.1}% {:6.0} ms",
            c.f.name,
            k.tasks,
            m.seconds * 1e3,
            c.flops / m.seconds / 1e9,
            100.0 * c.flops / (m.peaks * *peak_flops),
            cost * 1e3
        );
    }
    Ok(())
}
