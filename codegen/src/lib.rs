//! Kernels: from kernel functions of the IR to MLIR in upstream dialects, to machine code, to a plan.
//!
//! | module | what it does |
//! |---|---|
//! | [`kernels`] | one file per kernel family; a family owns its schedule as a plain struct |
//! | [`emit`] | a typed builder of MLIR text (`scf`, `arith`, `vector`, `llvm`) with our own transcendentals |
//! | [`lower`] | MLIR to LLVM |
//! | [`x86`] | LLVM to objects to one shared object, with a cache by content |
//! | [`gpu`] | the same kernels as PTX and as AMD code objects, with simple schedules |
//! | [`emit_plan`] | the scheduled IR and the compiled kernels to a plan |
//!
//! # Example
//! A kernel function is an IR function with the name of a family; its body says what the kernel computes. This one is a matmul with a bias
//! in its epilogue. It is compiled, run on this machine over its tasks, and compared with the reference evaluator.
//!
//! ```
//! use neoxc_codegen::{kernels, x86};
//! use neoxc_ir::eval::{Tensor, run};
//! use neoxc_ir::target::Target;
//! use neoxc_ir::{Attr, Attrs, Builder, Function, Module, TensorType};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut f = Function::new("projection");
//! f.attrs.set(neoxc_ir::keys::KERNEL, Attr::Str("matmul".into()));
//! let mut param = |name, dims: &[(&str, usize)]| f.add_param(name, TensorType::f32(dims), Attrs::new());
//! let x = param("x", &[("seq", 5), ("embed", 16)]);
//! let w = param("w", &[("ffn", 24), ("embed", 16)]);
//! let bias = param("bias", &[("ffn", 24)]);
//! let mut b = Builder::new(&mut f);
//! let y = b.matmul(x, w, &["embed"])?;
//! f.results = vec![Builder::new(&mut f).add(y, bias)?];
//! let module = Module { functions: vec![f], ..Module::default() };
//!
//! let f = &module.functions[0];
//! let kernel = kernels::build(&module, f, Target::X86Native)?;
//! let compiled = x86::compile(std::slice::from_ref(&kernel), Target::X86Native, None)?;
//!
//! // The kernel's interface: pointers of operands and results, a range of tasks, scratch memory.
//! let wave = |i: &[usize]| (1.0 + i.iter().fold(0, |n, i| 24 * n + i) as f64).sin();
//! let inputs: Vec<Tensor> =
//!     f.params.iter().map(|p| Tensor::from_fn(f.ty(*p).clone(), wave)).collect();
//! let mut buffers: Vec<Vec<f32>> =
//!     inputs.iter().map(|t| t.data.iter().map(|x| *x as f32).collect()).collect();
//! buffers.push(vec![f32::NAN; 5 * 24]);
//! let pointers: Vec<*mut f32> = buffers.iter_mut().map(|b| b.as_mut_ptr()).collect();
//! let mut scratch = vec![0u8; kernel.scratch_bytes as usize + 64];
//! let file = tempfile::Builder::new().suffix(".so").tempfile()?;
//! std::fs::write(file.path(), &compiled.so)?;
//! // SAFETY: the library is the one just made, and the buffers have the sizes of the function's types.
//! unsafe {
//!     type Entry = unsafe extern "C" fn(*const *mut f32, i64, i64, *mut u8);
//!     let library = libloading::Library::new(file.path())?;
//!     let entry = library.get::<Entry>(kernel.symbol.as_bytes())?;
//!     entry(pointers.as_ptr(), 0, kernel.tasks as i64, scratch.as_mut_ptr());
//! }
//! let want = run(&module, "projection", &inputs)?;
//! assert!(buffers[3].iter().zip(&want[0].data).all(|(got, want)| (f64::from(*got) - want).abs() < 1e-5));
//! # Ok(())
//! # }
//! ```

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod emit;
pub mod emit_plan;
pub mod error;
pub mod gpu;
pub mod kernels;
pub mod lower;
pub mod x86;

pub use error::CodegenError;
