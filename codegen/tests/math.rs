//! Our transcendentals against f64, over the whole range of f32, as scalars and as vectors of both
//! x86 targets; and what they do with infinities and NaN.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_codegen::emit::{Emit, Ty, Val, math};
use neoxc_codegen::kernels::Kernel;
use neoxc_codegen::x86;
use neoxc_ir::target::Target;

type Function = fn(&mut Emit, Val) -> Val;
type Entry = unsafe extern "C" fn(*const *mut u8, i64, i64, *mut u8);

const FUNCTIONS: [(&str, Function); 8] = [
    ("exp", math::exp),
    ("exp2_negative", math::exp2_negative),
    ("exp_negative", math::exp_negative),
    ("log", math::log),
    ("tanh", math::tanh),
    ("logistic", math::logistic),
    ("erf", math::erf),
    ("rsqrt", math::rsqrt),
];

/// `args[1][i] = f(args[0][i])` for i in begin..end, `lanes` at a time.
fn kernel(name: &str, f: Function, lanes: usize) -> Kernel {
    let mut k = Emit::new("");
    let args = k.argument(Ty::Ptr);
    let (begin, end) = (k.argument(Ty::I64), k.argument(Ty::I64));
    let scratch = k.argument(Ty::Ptr);
    let ptr = "llvm.getelementptr";
    let from = k.load(Ty::Ptr, args);
    let slot = k.def(Ty::Ptr, &format!("{ptr} {args}[1] : (!llvm.ptr) -> !llvm.ptr, !llvm.ptr"));
    let to = k.load(Ty::Ptr, slot);
    k.loop_(begin, end, lanes, |k, i| {
        let p = k.element(from, i);
        let x = k.load(if lanes == 1 { Ty::F32 } else { Ty::Vec(lanes) }, p);
        let y = f(k, x);
        let p = k.element(to, i);
        k.store(y, p);
    });
    let symbol = format!("{name}{lanes}");
    let mlir = format!(
        "module {{\n  func.func @{symbol}({args}: !llvm.ptr, {begin}: i64, {end}: i64, \
         {scratch}: !llvm.ptr) {{\n{}    return\n  }}\n}}\n",
        k.finish()
    );
    Kernel { symbol, mlir, tasks: 1, scratch_bytes: 0, ties: None, unrolled: false }
}

/// Runs every function on `x`, which must be a whole number of vectors, with every vector length of
/// the machine; all lengths must agree to the bit, where the function means something. One result per function.
fn run(x: &[f32]) -> Vec<Vec<f32>> {
    let mut lengths = vec![1, 8];
    if x86::lanes(Target::X86Native) == 16 {
        lengths.push(16);
    }
    let kernels: Vec<Kernel> = FUNCTIONS
        .iter()
        .flat_map(|(name, f)| lengths.iter().map(|n| kernel(name, *f, *n)))
        .collect();
    let so = x86::compile(&kernels, Target::X86Native, None).unwrap().so;
    let file = tempfile::NamedTempFile::with_suffix(".so").unwrap();
    std::fs::write(file.path(), so).unwrap();
    // SAFETY: the library was just made from kernels, which have no initialisers.
    let library = unsafe { libloading::Library::new(file.path()).unwrap() };
    let mut input = x.to_vec();
    FUNCTIONS
        .iter()
        .map(|(name, _)| {
            let mut all = lengths.iter().map(|n| {
                let mut y = vec![f32::NAN; x.len()];
                let pointers: [*mut u8; 2] = [input.as_mut_ptr().cast(), y.as_mut_ptr().cast()];
                // SAFETY: the symbol has the kernel ABI; both buffers hold x.len() floats, which
                // is a multiple of every vector length.
                unsafe {
                    let symbol = format!("{name}{n}");
                    let f: libloading::Symbol<Entry> = library.get(symbol.as_bytes()).unwrap();
                    f(pointers.as_ptr(), 0, x.len() as i64, std::ptr::null_mut());
                }
                y
            });
            let first = all.next().unwrap();
            for other in all {
                let differs = (0..x.len()).find(|i| {
                    let (a, b) = (first[*i], other[*i]);
                    let most = match *name {
                        "exp2_negative" => 127.0,
                        "exp_negative" => 88.0,
                        _ => f32::INFINITY,
                    };
                    if x[*i] > most {
                        return false;
                    }
                    a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan())
                });
                if let Some(i) = differs {
                    panic!("{name}({}) is {} alone but {} in a vector", x[i], first[i], other[i]);
                }
            }
            first
        })
        .collect()
}

unsafe extern "C" {
    safe fn erf(x: f64) -> f64;
}

/// The function in f64, where ours promises an accurate result.
fn reference(name: &str, x: f64) -> Option<f64> {
    let tiny = f64::from(f32::MIN_POSITIVE);
    match name {
        "exp" if (-87.33..88.72).contains(&x) => Some(x.exp()),
        "exp2_negative" if (-126.0..=0.0).contains(&x) => Some(x.exp2()),
        // A rounded x · log₂ e is off by 2⁻²⁴ of itself: more would be off by more.
        "exp_negative" if (-4.0..=0.0).contains(&x) => Some(x.exp()),
        "log" if x >= tiny => Some(x.ln()),
        // As above where the result is small.
        "logistic" if x > -4.0 => Some(1.0 / (1.0 + (-x).exp())),
        "tanh" if x.abs() >= tiny => Some(x.tanh()),
        "erf" if x.abs() >= tiny => Some(erf(x)),
        "rsqrt" if x >= tiny => Some(1.0 / x.sqrt()),
        _ => None,
    }
}

#[test]
fn accurate_over_the_whole_range() {
    // Every 3989th finite float of each sign, then floats around the switches between expansions.
    let infinity = f32::INFINITY.to_bits();
    let mut x: Vec<f32> = (0..infinity).step_by(3989).map(f32::from_bits).collect();
    for centre in [0.5f32, 0.625, std::f32::consts::FRAC_1_SQRT_2, 1.0, 4.1, 10.0, 87.3] {
        x.extend((0..500).map(|i| f32::from_bits(centre.to_bits() - 250 + i)));
    }
    let negative: Vec<f32> = x.iter().map(|x| -x).collect();
    x.extend(negative);
    x.resize(x.len().next_multiple_of(16), 1.0);
    for ((name, _), y) in FUNCTIONS.iter().zip(run(&x)) {
        let mut worst = (0.0, 0.0, 0.0);
        let mut checked = 0;
        for (x, y) in x.iter().zip(y) {
            if let Some(want) = reference(name, f64::from(*x)) {
                // Relative, but for log at 1, which is exactly zero.
                let scale = want.abs().max(f64::from(f32::MIN_POSITIVE));
                let error = (f64::from(y) - want).abs() / scale;
                checked += 1;
                if error > worst.0 || error.is_nan() {
                    worst = (error, *x, y);
                }
            }
        }
        println!("{name}: {:.2e} at {:e} (got {:e}) of {checked}", worst.0, worst.1, worst.2);
        assert!(checked > 50_000, "{name} was hardly checked");
        let most = if *name == "rsqrt" { 2.5e-7 } else { 5e-7 };
        assert!(worst.0 < most, "{name}({:e}) = {:e}: {:e}", worst.1, worst.2, worst.0);
    }
}

#[test]
fn limits_and_nan() {
    let mut x = vec![f32::NEG_INFINITY, -1e30, -200.0, -0.0, 0.0, 200.0, 1e30, f32::INFINITY];
    x.push(f32::NAN);
    x.resize(16, 1.0);
    let y = run(&x);
    let of = |name| &y[FUNCTIONS.iter().position(|(n, _)| *n == name).unwrap()];
    assert_eq!(of("exp")[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
    assert!(of("exp")[5..8].iter().all(|y| *y == f32::INFINITY), "{:?}", of("exp"));
    for name in ["tanh", "erf"] {
        assert_eq!(of(name)[..8], [-1.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 1.0], "{name}");
    }
    assert_eq!(
        of("exp2_negative")[..5],
        [f32::MIN_POSITIVE, f32::MIN_POSITIVE, f32::MIN_POSITIVE, 1.0, 1.0]
    );
    assert_eq!(of("exp_negative")[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
    let least = f32::MIN_POSITIVE;
    assert_eq!(of("logistic")[..8], [least, least, least, 0.5, 0.5, 1.0, 1.0, 1.0]);
    for name in ["exp", "exp2_negative", "exp_negative", "tanh", "logistic", "erf", "rsqrt"] {
        assert!(of(name)[8].is_nan(), "{name} hides a NaN: {}", of(name)[8]);
    }
}
