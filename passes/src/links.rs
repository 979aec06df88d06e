//! What collectives cost by the machine's rates: one rule for the passes that choose them and that order them.

use neoxc_ir::OpKind;
use neoxc_ir::cluster::Machine;

use crate::pass::{Degrees, PassCx};

/// The links of a mesh.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    machine: Machine,
    degrees: Degrees,
}

impl Links {
    /// Those of the ranks of `cx`.
    pub fn new(cx: &PassCx) -> Links {
        Links { machine: cx.machine, degrees: cx.degrees }
    }

    /// Seconds of the collective `kind` along `axis`, alone on its link, where the larger of what a rank has before
    /// and after takes `bytes`. Parts go around a ring once, or twice for a sum that every rank wants whole.
    /// `take_part` copies within a rank.
    pub fn seconds(&self, kind: OpKind, axis: &str, bytes: usize) -> f64 {
        let (mut stride, mut ranks) = (1, 1);
        for (name, size) in self.degrees.axes().iter().rev() {
            if *name == axis {
                ranks = *size;
                break;
            }
            stride *= size;
        }
        let part = bytes as f64 / ranks as f64;
        let others = part * (ranks - 1) as f64;
        let rounds = match kind {
            OpKind::TakePart => return self.machine.kernel_seconds(0.0, 2.0 * part),
            OpKind::ReduceScatter | OpKind::AllGather | OpKind::AllToAll => 1.0,
            _ => 2.0,
        };
        self.machine.link(stride, ranks).seconds(rounds * others)
    }

    /// Seconds of a kernel.
    pub fn kernel(&self, flops: f64, bytes: f64) -> f64 {
        self.machine.kernel_seconds(flops, bytes)
    }
}
