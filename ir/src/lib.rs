//! The tensor IR of neoxc.
//!
//! A [`Module`] is a list of functions; a [`Function`] is a straight line of ops over SSA values. There are no regions: loops
//! and calls are ops that name another function, so every function can be read from top to bottom. A type is a dtype and *named*
//! dims ([`TensorType`]); ops speak of dims by name, never by number.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ops`], [`op`] | one file per op with *all* of its rules: shapes, gradient, sharding, precision, cost, evaluation, decomposition |
//! | [`module`](mod@module), [`types`], [`attrs`], [`keys`] | functions and values, types, attributes, and every attribute key that there is |
//! | [`build`] | appends ops to a function, with types inferred |
//! | [`text`], [`dialect`] | the text form, which is MLIR and round-trips exactly; the dialect as IRDL |
//! | [`verifier`](mod@verifier) | what every module must satisfy |
//! | [`eval`], [`eval_ranks`] | the reference evaluator in f64, for one rank and for several in step |
//!
//! # Example
//! A matrix multiplication and a gelu, built, printed, read back and evaluated:
//!
//! ```
//! use neoxc_ir::eval::{Tensor, run};
//! use neoxc_ir::{Attr, Attrs, Builder, Function, Module, OpKind, TensorType, text};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut f = Function::new("layer");
//! let x = f.add_param("x", TensorType::f32(&[("seq", 2), ("embed", 3)]), Attrs::new());
//! let w = f.add_param("w", TensorType::f32(&[("ffn", 4), ("embed", 3)]), Attrs::new());
//! let mut b = Builder::new(&mut f);
//! let y = b.matmul(x, w, &["embed"])?;
//! let z = b.one(OpKind::Gelu, &[y], Attrs::new().with("approximate", Attr::Str("none".into())))?;
//! assert_eq!(b.ty(z), &TensorType::f32(&[("seq", 2), ("ffn", 4)]));
//! f.results = vec![z];
//!
//! let module = Module { functions: vec![f], ..Module::default() };
//! neoxc_ir::verify(&module)?;
//! assert_eq!(text::parse(&text::print(&module))?, module);
//!
//! let f = &module.functions[0];
//! let ones = f.params.iter().map(|p| Tensor::fill(f.ty(*p).clone(), 1.0)).collect::<Vec<_>>();
//! let results = run(&module, "layer", &ones)?;
//! // gelu(3) = 3 Φ(3)
//! assert!((results[0].at(&[1, 2]) - 2.995_950_305_9).abs() < 1e-9);
//! # Ok(())
//! # }
//! ```
//! The text form:
//! ```
//! use neoxc_ir::text;
//! let source = r#"module {
//!   func.func @double(%x: tensor<4xf32, {dims = ["seq"]}>) -> tensor<4xf32, {dims = ["seq"]}> {
//!     %0 = "neox.add"(%x, %x) : (tensor<4xf32, {dims = ["seq"]}>, tensor<4xf32, {dims = ["seq"]}>) -> tensor<4xf32, {dims = ["seq"]}> loc("14M.yml":3:5)
//!     return %0 : tensor<4xf32, {dims = ["seq"]}>
//!   }
//! }
//! "#;
//! let module = text::parse(source).unwrap();
//! neoxc_ir::verify(&module).unwrap();
//! assert_eq!(text::print(&module), source);
//! ```
//! The tutorial of `neoxc-passes` goes on from here: it rewrites, differentiates and divides such a module.

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod attrs;
pub mod build;
pub mod dialect;
pub mod eval;
pub mod eval_ranks;
pub mod keys;
pub mod module;
pub mod op;
pub mod ops;
pub mod period;
pub mod role;
pub mod text;
pub mod types;
pub mod verifier;

pub use neoxc_base::{cluster, diag, nearest, processor, read, target, write};

pub use attrs::{Attr, Attrs};
pub use build::Builder;
pub use module::{Function, Loc, Module, Op, Value, ValueId};
pub use op::{OpDef, OpKind};
pub use role::{Output, Role};
pub use types::{DType, Dim, TensorType};
pub use verifier::{VerifyError, verify};
