//! The tensor IR of neoxc: types, the op registry, text, the verifier, the reference evaluator,
//! and again the vocabulary of `neoxc-base` (diagnostics, targets, clusters).
//!
//! A [`Module`] is a list of functions; a [`Function`] is a straight line of ops over SSA values;
//! loops and calls are ops that name another function. Each op is one file in [`ops`] which holds
//! *all* of its rules. The text form is MLIR (see [`text`]) and round-trips exactly.
//!
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

pub mod attrs;
pub mod build;
pub mod dialect;
pub mod eval;
pub mod eval_ranks;
pub mod keys;
pub mod module;
pub mod nearest;
pub mod op;
pub mod ops;
pub mod text;
pub mod types;
pub mod verifier;

pub use neoxc_base::{cluster, diag, target};

pub use attrs::{Attr, Attrs};
pub use build::Builder;
pub use module::{Function, Loc, Module, Op, Value, ValueId};
pub use op::{OpDef, OpKind};
pub use types::{DType, Dim, TensorType};
pub use verifier::{VerifyError, verify};
