//! Building blocks that families share, in plain ops: one file each.

pub mod activations;
pub mod attention;
pub mod dropout;
pub mod experts;
pub mod mlp;
pub mod norms;
pub mod positions;
pub mod transformer;

use neoxc_ir::op::OpError;
use neoxc_ir::{Builder, ValueId};

pub(crate) type Result<T> = std::result::Result<T, OpError>;

/// `x · weightᵀ + bias`, contracted over `contract`.
pub fn linear(
    b: &mut Builder<'_>,
    x: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    contract: &[&str],
) -> Result<ValueId> {
    let y = b.matmul(x, weight, contract)?;
    match bias {
        Some(bias) => b.add(y, bias),
        None => Ok(y),
    }
}
