//! The op registry: the one list of ops. An op is one file here with all of its rules.
//!
//! To add an op, write its file and add one line to [`ALL`] (see `docs/howto/add-an-op.md`).

use crate::op::{OpDef, OpKind};

pub mod pointwise;

mod add;
mod call;
mod matmul;
mod reduce_sum;
mod repeat;

/// Every op.
pub static ALL: &[&dyn OpDef] =
    &[&add::Add, &call::Call, &matmul::Matmul, &reduce_sum::ReduceSum, &repeat::Repeat];

/// The op called `name` (without dialect).
pub fn find(name: &str) -> Option<OpKind> {
    ALL.iter().find(|op| op.name() == name).map(|op| OpKind(*op))
}
