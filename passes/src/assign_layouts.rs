//! `assign-layouts`: how tensors are divided over the mesh.
//!
//! One device needs no layout. The pass holds the phase's promise for that case: it checks that no
//! type claims to be divided, so that later phases may rely on whole tensors.

use neoxc_ir::Module;

use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "assign-layouts",
    doc: "check that one device holds whole tensors",
    requires: &[Fact::HasTrainStep],
    ensures: &[Fact::WholeTensors],
    run,
};

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    for f in &m.functions {
        if let Some(v) = f.values.iter().find(|v| v.ty.shard.iter().any(|s| !s.is_empty())) {
            return Err(PassError::Unsupported(format!(
                "@{} holds {}, divided over a mesh; this version plans one device",
                f.name, v.ty
            )));
        }
    }
    Ok(PassReport::default())
}
