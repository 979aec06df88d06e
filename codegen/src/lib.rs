//! Kernels: from kernel functions of the IR to MLIR in upstream dialects, to machine code.
//!
//! - [`emit`]: a typed builder of MLIR (`scf`, `arith`, `vector`, `llvm`) and our own
//!   transcendentals.
//! - [`kernels`]: one file per kernel family; a family owns its schedule as a plain struct.
//! - [`x86`]: MLIR → LLVM → objects → one shared object, with a cache by content.
//! - [`gpu`]: the same kernels as PTX and as AMD code objects, with simple schedules.
//! - [`emit_plan`]: the scheduled IR and the compiled kernels → a plan.

pub mod emit;
pub mod emit_plan;
pub mod error;
pub mod gpu;
pub mod kernels;
pub mod lower;
pub mod x86;

pub use error::CodegenError;
