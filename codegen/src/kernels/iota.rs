//! Numbers from 0: a task is one of them.

use super::{Body, Shape};
use crate::CodegenError;

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.first().ok_or_else(|| b.fail("is empty"))?;
    let tasks = b.f.ty(op.results[0]).elements();
    let out = b.result(0);
    b.tasks(|b, i| {
        let k = &mut b.k;
        let (p, number) = (k.element(out, i), k.narrow(i));
        k.store(number, p);
        Ok(())
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}
