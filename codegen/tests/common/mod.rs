//! Compiles kernel functions and holds them against the reference evaluator: poisoned outputs, and task ranges
//! split in different ways with the same bits as the result.
#![allow(dead_code, clippy::unwrap_used)] // each test uses its part; helper functions of tests

pub mod cuda;
pub mod sim;

use neoxc_codegen::kernels;
use neoxc_codegen::x86::{Bf16, Cpu};
use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, TensorType, ValueId};
use neoxc_sim::Order;

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn unit(&mut self) -> f64 {
        f64::from(((self.next() >> 40) as f32) / (1u64 << 23) as f32 - 1.0)
    }
}

pub type Dims<'a> = &'a [(&'a str, usize)];

/// A kernel function from its operands and a closure that builds its body.
pub fn kernel(
    name: &str,
    family: &str,
    params: &[(Dims<'_>, DType)],
    body: impl FnOnce(&mut Builder<'_>, &[ValueId]) -> Vec<ValueId>,
) -> Function {
    let mut f = Function::new(name);
    f.attrs.set("neox.kernel", Attr::Str(family.into()));
    let ids: Vec<ValueId> = params
        .iter()
        .enumerate()
        .map(|(i, (dims, dtype))| {
            let dims = dims.iter().map(|(n, s)| Dim::new(n, *s)).collect();
            f.add_param(&format!("p{i}"), TensorType::new(*dtype, dims), Attrs::new())
        })
        .collect();
    f.results = body(&mut Builder::new(&mut f), &ids);
    f
}

/// The update of an optimizer that `settings` describes, as the ops that a kernel has.
pub fn update(b: &mut Builder<'_>, operands: &[ValueId], settings: &str) -> Vec<ValueId> {
    let settings = neoxc_optimizers::Settings::parse(settings).unwrap();
    let body = neoxc_optimizers::build("update", &settings, neoxc_optimizers::Form::Elements, 1.0)
        .unwrap();
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol("update".into()))
        .with("results", Attr::Int(body.results.len() as i64));
    let mut m = Module::new();
    m.insert(body);
    let mut b = Builder::with_module(b.function, &m);
    match OpKind::Map.def().decompose(&mut b, operands, &attrs).unwrap() {
        neoxc_ir::op::Decomposition::Values(values) => values,
        neoxc_ir::op::Decomposition::Primitive => panic!("it has a decomposition"),
    }
}

/// Bytes of a tensor as the kernel sees it.
pub fn bytes(t: &Tensor) -> Vec<u8> {
    match t.ty.dtype {
        DType::I32 => t.data.iter().flat_map(|x| (*x as i32).to_le_bytes()).collect(),
        DType::Bf16 => t.data.iter().flat_map(|x| half::bf16::from_f64(*x).to_le_bytes()).collect(),
        DType::F16 => t.data.iter().flat_map(|x| half::f16::from_f64(*x).to_le_bytes()).collect(),
        _ => t.data.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
    }
}

pub fn inputs(f: &Function, ids: usize, r: &mut Random) -> Vec<Tensor> {
    f.params
        .iter()
        .map(|p| {
            let ty = f.ty(*p).clone();
            let int = ty.dtype == DType::I32;
            // The number of a part: one of three.
            let below = if ty.has("rank") { 3 } else { ids as u64 };
            // Sums of exponentials are positive.
            let positive = ty.has("stat");
            Tensor::from_fn(ty, |_| match (int, positive) {
                (true, _) => (r.next() % below) as f64,
                (_, true) => r.unit().abs() + 0.125,
                _ => r.unit(),
            })
            .rounded()
        })
        .collect()
}

pub type Entry = unsafe extern "C" fn(*const *mut u8, i64, i64, *mut u8);

/// Runs the compiled kernel over `cuts` of its task range.
pub fn run(
    so: &libloading::Library,
    k: &kernels::Kernel,
    f: &Function,
    x: &[Tensor],
    pieces: u64,
) -> Vec<Vec<f32>> {
    run_sharing(so, k, f, x, pieces, &[])
}

/// The same with results in the places of operands: pairs of their numbers, as in `neox.inplace`.
pub fn run_sharing(
    so: &libloading::Library,
    k: &kernels::Kernel,
    f: &Function,
    x: &[Tensor],
    pieces: u64,
    pairs: &[i64],
) -> Vec<Vec<f32>> {
    let place = |result: usize| {
        let pair = pairs.chunks(2).find(|p| p[0] as usize == result);
        pair.map_or(x.len() + result, |p| p[1] as usize)
    };
    let mut buffers: Vec<Vec<u8>> = x.iter().map(bytes).collect();
    for r in &f.results {
        // Poison: NaN in every element.
        buffers.push(vec![0xff; f.ty(*r).bytes()]);
    }
    let mut pointers: Vec<*mut u8> = buffers.iter_mut().map(|b| b.as_mut_ptr()).collect();
    for i in 0..f.results.len() {
        pointers[x.len() + i] = pointers[place(i)];
    }
    let mut scratch = vec![0xffu8; k.scratch_bytes as usize + 64];
    // SAFETY: the symbol has the kernel ABI; buffers have the sizes of the kernel function's types.
    unsafe {
        let entry: libloading::Symbol<Entry> = so.get(k.symbol.as_bytes()).unwrap();
        for i in 0..pieces {
            let (lo, hi) = (k.tasks * i / pieces, k.tasks * (i + 1) / pieces);
            entry(pointers.as_ptr(), lo as i64, hi as i64, scratch.as_mut_ptr());
        }
    }
    f.results.iter().enumerate().map(|(i, v)| numbers(&buffers[place(i)], f.ty(*v).dtype)).collect()
}

/// The elements of a kernel's result.
fn numbers(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let number = |c: &[u8]| match dtype {
        DType::I32 => i32::from_le_bytes(c.try_into().unwrap()) as f32,
        DType::Bf16 => half::bf16::from_le_bytes(c.try_into().unwrap()).to_f32(),
        DType::F16 => half::f16::from_le_bytes(c.try_into().unwrap()).to_f32(),
        _ => f32::from_le_bytes(c.try_into().unwrap()),
    };
    bytes.chunks(dtype.bytes()).map(number).collect()
}

/// Asks the system for AMX's tile registers, where this machine has them.
fn allow_tiles() {
    if Cpu::of(Target::X86Native).bf16 == Bf16::Tiles {
        // SAFETY: the call (ARCH_REQ_XCOMP_PERM, XTILEDATA) changes nothing but a permission of this process.
        assert_eq!(unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1023, 18) }, 0);
    }
}

/// Kernels, compiled and opened.
pub fn library(kernels: &[kernels::Kernel], target: Target) -> libloading::Library {
    allow_tiles();
    let compiled = neoxc_codegen::x86::compile(kernels, target, None).unwrap();
    let file = tempfile::NamedTempFile::with_suffix(".so").unwrap();
    std::fs::write(file.path(), &compiled.so).unwrap();
    // SAFETY: the library was just made from kernels, which have no initialisers.
    unsafe { libloading::Library::new(file.path()).unwrap() }
}

/// The results of one kernel.
pub fn run_once(target: Target, f: &Function, x: &[Tensor]) -> Vec<Vec<f32>> {
    let k = kernels::build(&Module::new(), f, target).unwrap();
    run(&library(std::slice::from_ref(&k), target), &k, f, x, 1)
}

/// On this machine's own target; on AVX2, whose tiles and tails differ; and on a GPU, where there is one.
pub fn check(functions: &[(Function, usize)], tolerance: f64) {
    check_everywhere(&given(functions), tolerance);
}

/// The same on given operands.
pub fn check_everywhere(cases: &[(Function, Vec<Tensor>)], tolerance: f64) {
    for target in [Target::X86Native, Target::X86V3] {
        check_given(target, cases, tolerance);
    }
    check_gpu(cases, tolerance);
}

pub fn check_on(target: Target, functions: &[(Function, usize)], tolerance: f64) {
    check_given(target, &given(functions), tolerance);
}

fn given(functions: &[(Function, usize)]) -> Vec<(Function, Vec<Tensor>)> {
    let mut r = Random(11);
    functions.iter().map(|(f, ids)| (f.clone(), inputs(f, *ids, &mut r))).collect()
}

/// On the first GPU, each of its targets, and on the simulated one. Says what differs of all cases, for such a machine
/// is rare.
pub fn check_gpu(cases: &[(Function, Vec<Tensor>)], tolerance: f64) {
    let module = Module::new();
    let of = |target| -> Vec<kernels::Kernel> {
        cases.iter().map(|(f, _)| kernels::build_gpu(&module, f, target).unwrap()).collect()
    };
    let wants: Vec<Vec<Tensor>> =
        cases.iter().map(|(f, x)| run_function(&module, f, x).unwrap()).collect();
    // Poison: NaN in every element.
    let operands: Vec<Vec<Vec<u8>>> = cases
        .iter()
        .map(|(f, x)| {
            let results = f.results.iter().map(|r| vec![0xff; f.ty(*r).bytes()]);
            x.iter().map(bytes).chain(results).collect()
        })
        .collect();
    let mut wrong = vec![];
    let mut compare = |target: &str, case: usize, got: &[Vec<u8>]| {
        let (f, x) = &cases[case];
        for (i, w) in wants[case].iter().enumerate() {
            if let Err(e) = close(w, &numbers(&got[x.len() + i], w.ty.dtype), tolerance) {
                wrong.push(format!("{target}: {} result {i}{e}", f.name));
            }
        }
    };

    let (some, left) = sim::sample(of(Target::Sm80).into_iter().enumerate());
    if left > 0 {
        eprintln!("sim:sm_80: {left} long kernels are left out; NEOXC_SIM=all runs them");
    }
    let loaded = sim::Loaded::of(some.iter().map(|(_, k)| k), Target::Sm80);
    for (i, k) in &some {
        let order = [Order::Forward, Order::Backward, Order::Seeded(*i as u64)][i % 3];
        compare("sim:sm_80", *i, &loaded.run(k, &operands[*i], order));
    }

    if let Some(gpu) = cuda::Gpu::first() {
        for target in &gpu.targets {
            let built = of(*target);
            let loaded = gpu.load(&built, *target);
            for (i, k) in built.iter().enumerate() {
                let memory: Vec<cuda::Memory<'_>> =
                    operands[i].iter().map(|o| gpu.memory(o)).collect();
                loaded.run(k, &memory.iter().collect::<Vec<_>>());
                let got: Vec<Vec<u8>> = memory.iter().map(cuda::Memory::read).collect();
                compare(target.name(), i, &got);
            }
            eprintln!("{target}: {} kernels ran", built.len());
        }
    } else {
        eprintln!("skipped on a GPU: this machine has none");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether all elements are within `tolerance` of the largest; otherwise the first that is not.
fn close(want: &Tensor, got: &[f32], tolerance: f64) -> Result<(), String> {
    let size = want.data.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (e, (a, b)) in want.data.iter().zip(got).enumerate() {
        let error = (a - f64::from(*b)).abs() / size;
        // NaN is not close to anything.
        if error.is_nan() || error >= tolerance {
            return Err(format!("[{e}]: {a} but {b}"));
        }
    }
    Ok(())
}

/// On one target.
pub fn check_given(target: Target, cases: &[(Function, Vec<Tensor>)], tolerance: f64) {
    check_for(target, Cpu::of(target), cases, tolerance);
}

/// The same for a core other than the target's own.
pub fn check_for(target: Target, cpu: Cpu, cases: &[(Function, Vec<Tensor>)], tolerance: f64) {
    let module = Module::new();
    let built: Vec<kernels::Kernel> = cases
        .iter()
        .map(|(f, _)| kernels::build_for(&module, f, target, cpu, kernels::Choice::Model).unwrap())
        .collect();
    for f in cases {
        assert_eq!(built.iter().filter(|k| k.symbol == f.0.name).count(), 1);
    }
    let so = library(&built, target);
    for (k, (f, x)) in built.iter().zip(cases) {
        let want = run_function(&module, f, x).unwrap();
        let got = run(&so, k, f, x, 1);
        for (i, (w, g)) in want.iter().zip(&got).enumerate() {
            if let Err(e) = close(w, g, tolerance) {
                panic!("{} result {i}{e}", f.name);
            }
        }
        let bits = |x: &[Vec<f32>]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        for pieces in [2, 3, 7] {
            let again = run(&so, k, f, x, pieces);
            assert!(bits(&got) == bits(&again), "{} depends on the split into {pieces}", f.name);
        }
        if let Some(pairs) = f.attrs.ints("neox.inplace") {
            let again = run_sharing(&so, k, f, x, 3, &pairs);
            assert!(bits(&got) == bits(&again), "{} makes something else in place", f.name);
        }
    }
}

/// This machine with all that there is for matmuls of bfloat16; what it lacks is made of other instructions, on parts
/// of vectors if need be.
pub fn units() -> impl Iterator<Item = Cpu> {
    let own = Cpu { bf16: Bf16::Widen, ..Cpu::of(Target::X86Native) };
    let pairs = |bf16| Cpu { bf16, lanes: 16, ..own };
    [own, pairs(Bf16::Dot), pairs(Bf16::Tiles)].into_iter()
}

pub const F: DType = DType::F32;
pub const H: DType = DType::Bf16;
