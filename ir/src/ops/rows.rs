//! Addressing of rows along one dim and by id, for evaluators.

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

/// An id as an index below `below`; negative, fractional and NaN ids are errors, never row 0.
pub fn index(id: f64, below: usize, what: &str) -> Result<usize, OpError> {
    if id >= 0.0 && id < below as f64 && id.fract() == 0.0 {
        Ok(id as usize)
    } else {
        Err(OpError::new(format!("{what} {id} is not one of {below}")))
    }
}
