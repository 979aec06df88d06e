//! Addressing of rows along one dim, for evaluators.

use crate::eval::advance;
use crate::op::OpError;
use crate::types::TensorType;

/// Offsets of the first element of every row along `dim`, and the offsets within a row.
pub fn rows(ty: &TensorType, dim: &str) -> Result<(Vec<usize>, Vec<usize>), OpError> {
    let p = ty.position(dim).ok_or_else(|| OpError::new(format!("{ty} has no dim `{dim}`")))?;
    let stride = ty.strides()[p];
    let mut bases = vec![];
    let mut index = vec![0; ty.dims.len()];
    for at in 0..ty.elements() {
        if index[p] == 0 {
            bases.push(at);
        }
        advance(&mut index, ty);
    }
    Ok((bases, (0..ty.dims[p].size).map(|i| i * stride).collect()))
}
