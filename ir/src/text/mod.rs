//! The text form of the IR: MLIR, generic form, dialect `neox`.
//!
//! Invariant: `parse(print(m)) == m` and `print(parse(t)) == t` for every text that
//! [`print()`] made. `mlir-opt --irdl-file` with the dialect of [`crate::dialect`] accepts it.

mod lexer;
mod parser;
mod printer;

pub use parser::{ParseError, parse};
pub use printer::{print, print_function};
