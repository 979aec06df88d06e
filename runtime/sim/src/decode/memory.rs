//! Instructions of memory.

use super::{Reader, elements};
use crate::fault::SimError;
use crate::instruction::{Factor, Place, Space, What};
use crate::module::{bytes_of, unknown};

impl Reader<'_> {
    /// `ld` and `st` of parameters and of memory.
    pub(super) fn access(&mut self) -> Result<What, SimError> {
        self.count(2)?;
        let load = self.parts[0] == "ld";
        let (mut space, mut vector, mut parameter) = (Space::Generic, 1, false);
        let kind = *self.parts.last().unwrap_or(&"");
        for part in &self.parts[1..self.parts.len() - 1] {
            match *part {
                "param" if load => parameter = true,
                "v2" => vector = 2,
                "v4" => vector = 4,
                // Read-only data by another cache.
                "nc" if load => {}
                other => space = space_of(other).ok_or_else(|| self.unknown())?,
            }
        }
        let bytes = bytes_of(kind).ok_or_else(|| self.unknown())?;
        let (registers, address) = if load { (0, 1) } else { (1, 0) };
        let names = elements(self.operands[registers]);
        if names.len() != vector || vector as u32 * bytes > 16 {
            return Err(unknown(self.s, "the registers do not fit the type"));
        }
        let mut places = vec![];
        for name in names {
            places.push(self.names.place(self.s, name, bytes)?);
        }
        let signed = kind.starts_with('s');
        if parameter {
            let offset = self.names.parameter(self.s, self.operands[address])?;
            return Ok(What::LoadParameter { d: places[0], offset, bytes });
        }
        let address = self.names.address(self.s, self.operands[address])?;
        Ok(match load {
            true => What::Load { space, bytes, signed, d: places, address },
            false => What::Store { space, bytes, a: places, address },
        })
    }

    /// `cp.async` from global to shared memory, its groups and its waits.
    pub(super) fn copy(&mut self) -> Result<What, SimError> {
        let number =
            |text: &str| text.parse::<u32>().map_err(|_| unknown(self.s, "a number is wanted"));
        match self.parts[..] {
            ["cp", "async", "commit_group"] => Ok(What::CommitCopies),
            ["cp", "async", "wait_all"] => Ok(What::WaitCopies { left: 0, all: true }),
            ["cp", "async", "wait_group"] => {
                self.count(1)?;
                Ok(What::WaitCopies { left: number(self.operands[0])? as usize, all: false })
            }
            ["cp", "async", "ca" | "cg", "shared" | "shared::cta", "global", ..] => {
                let bytes = self.operands.get(2).map(|b| number(b)).transpose()?.unwrap_or(0);
                if !matches!((self.parts[2], bytes), ("cg", 16) | ("ca", 4 | 8 | 16)) {
                    return Err(unknown(self.s, "copies have 4, 8 or 16 bytes, past L1 16"));
                }
                let to = self.names.address(self.s, self.operands[0])?;
                let from = self.names.address(self.s, self.operands[1])?;
                let size = match self.operands.len() {
                    4 => Some(self.narrow(3)?),
                    _ => None,
                };
                Ok(What::Copy { bytes, to, from, size })
            }
            _ => Err(self.unknown()),
        }
    }

    /// `atom.global.add.u32` and `red.global.add.u32`.
    pub(super) fn atomic(&mut self) -> Result<What, SimError> {
        let keeps = self.parts[0] == "atom";
        let mut space = Space::Generic;
        let mut adds = false;
        for part in &self.parts[1..self.parts.len() - 1] {
            match *part {
                "add" => adds = true,
                "relaxed" | "gpu" | "cta" => {}
                other => space = space_of(other).ok_or_else(|| self.unknown())?,
            }
        }
        // Sums of floats in any order are not the same twice: none of our kernels may have them.
        if !adds || !matches!(self.parts.last(), Some(&("u32" | "s32"))) {
            return Err(self.unknown());
        }
        self.count(if keeps { 3 } else { 2 })?;
        let d = if keeps { self.names.place(self.s, self.operands[0], 4)? } else { Place::Nowhere };
        let address = self.names.address(self.s, self.operands[usize::from(keeps)])?;
        Ok(What::AtomicAdd { space, d, address, a: self.narrow(1 + usize::from(keeps))? })
    }

    /// `ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {…}, [address]`.
    pub(super) fn load_matrices(&mut self) -> Result<What, SimError> {
        self.count(2)?;
        let (count, transposed) = match self.parts[1..] {
            ["sync", "aligned", "m8n8", x, "shared" | "shared::cta", "b16"] => (x, false),
            ["sync", "aligned", "m8n8", x, "trans", "shared" | "shared::cta", "b16"] => (x, true),
            _ => return Err(self.unknown()),
        };
        let names = elements(self.operands[0]);
        if format!("x{}", names.len()) != count || !matches!(names.len(), 1 | 2 | 4) {
            return Err(unknown(self.s, "the registers do not fit the matrices"));
        }
        let mut d = vec![];
        for name in names {
            d.push(self.names.narrow(self.s, name)?);
        }
        let address = self.names.address(self.s, self.operands[1])?;
        Ok(What::LoadMatrices { d, address, transposed })
    }

    /// `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32` and its like with sums in f32.
    pub(super) fn mma(&mut self) -> Result<What, SimError> {
        self.count(4)?;
        let (factor, registers) = match self.parts[1..] {
            ["sync", "aligned", shape, "row", "col", "f32", a, b, "f32"] if a == b => {
                match (shape, a) {
                    ("m16n8k16", "bf16") => (Factor::Bf16, [4, 2]),
                    ("m16n8k16", "f16") => (Factor::F16, [4, 2]),
                    ("m16n8k8", "bf16") => (Factor::Bf16, [2, 1]),
                    ("m16n8k8", "f16") => (Factor::F16, [2, 1]),
                    ("m16n8k8", "tf32") => (Factor::Tf32, [4, 2]),
                    ("m16n8k4", "tf32") => (Factor::Tf32, [2, 1]),
                    _ => return Err(self.unknown()),
                }
            }
            _ => return Err(self.unknown()),
        };
        let mut read = |operand: usize, wanted: usize| -> Result<Vec<_>, SimError> {
            let names = elements(self.operands[operand]);
            if names.len() != wanted {
                return Err(unknown(self.s, "the registers do not fit the shape"));
            }
            names.iter().map(|n| self.names.narrow(self.s, n)).collect()
        };
        let four = |all: Vec<usize>| [all[0], all[1], all[2], all[3]];
        let (d, c) = (four(read(0, 4)?), four(read(3, 4)?));
        Ok(What::Mma { factor, d, a: read(1, registers[0])?, b: read(2, registers[1])?, c })
    }
}

fn space_of(part: &str) -> Option<Space> {
    match part {
        "global" => Some(Space::Global),
        "shared" | "shared::cta" => Some(Space::Shared),
        "local" => Some(Space::Local),
        _ => None,
    }
}
