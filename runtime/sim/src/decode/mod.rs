//! Statements as instructions.

mod exchange;
mod memory;
mod names;

use std::collections::BTreeMap;

pub use names::Names;

use crate::fault::SimError;
use crate::instruction::{Guard, Instruction, Register, What};
use crate::module::{Constant, bytes_of, unknown};
use crate::statements::Statement;
use crate::table::{self, Compute};

/// An instruction's parts, while it is read.
struct Reader<'a> {
    s: &'a Statement,
    names: &'a mut Names,
    labels: &'a BTreeMap<String, usize>,
    /// The whole name, `add.s32`.
    name: &'a str,
    /// Its parts.
    parts: Vec<&'a str>,
    /// Operands, as they are written.
    operands: Vec<&'a str>,
}

/// The instruction of a statement.
///
/// # Errors
/// If it is unknown, or has other operands than its name asks for.
pub fn instruction(
    s: &Statement,
    names: &mut Names,
    labels: &BTreeMap<String, usize>,
) -> Result<Instruction, SimError> {
    let mut text = s.text.as_str();
    let mut guard = None;
    if let Some(rest) = text.strip_prefix('@') {
        let (name, rest) = rest.split_once(' ').ok_or_else(|| unknown(s, "a guard of nothing"))?;
        let negated = name.starts_with('!');
        let predicate = names.predicate(s, name.trim_start_matches('!'))?;
        (guard, text) = (Some(Guard { predicate, negated }), rest);
    }
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let parts = name.split('.').collect();
    let mut r = Reader { s, names, labels, name, parts, operands: split(rest) };
    let what = r.what()?;
    Ok(Instruction { guard, what, line: s.line, text: s.text.clone() })
}

/// Operands at commas outside of braces and brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut all) = (0, 0, vec![]);
    for (i, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                all.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        all.push(last);
    }
    all
}

/// The elements of `{a, b}`, or the one operand.
fn elements(text: &str) -> Vec<&str> {
    match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        Some(inner) => inner.split(',').map(str::trim).collect(),
        None => vec![text],
    }
}

impl Reader<'_> {
    fn unknown(&self) -> SimError {
        unknown(self.s, "this instruction is unknown")
    }

    /// Fails unless there are so many operands.
    fn count(&self, wanted: usize) -> Result<(), SimError> {
        match self.operands.len() {
            n if n == wanted => Ok(()),
            n => Err(unknown(self.s, &format!("{wanted} operands are wanted, {n} are given"))),
        }
    }

    fn narrow(&mut self, i: usize) -> Result<Register, SimError> {
        self.names.narrow(self.s, self.operands[i])
    }

    fn wide(&mut self, i: usize) -> Result<Register, SimError> {
        self.names.wide(self.s, self.operands[i])
    }

    fn predicate(&mut self, i: usize) -> Result<Register, SimError> {
        self.names.constant_predicate(self.s, self.operands[i])
    }

    /// The width of the type that ends the name.
    fn bytes(&self) -> Result<u32, SimError> {
        self.parts.last().and_then(|t| bytes_of(t)).ok_or_else(|| self.unknown())
    }

    fn what(&mut self) -> Result<What, SimError> {
        if self.parts[0] == "mov" && self.operands.iter().any(|o| o.starts_with('{')) {
            return self.packed();
        }
        if let Some(compute) = table::find(self.name) {
            return self.compute(compute);
        }
        if let Some((operands, logic)) = table::logic(self.name) {
            self.count(operands + 1)?;
            let d = self.predicate(0)?;
            let a = [self.predicate(1)?, self.predicate(operands)?];
            return Ok(What::Logic { logic, d, a });
        }
        match self.parts[0] {
            "setp" => self.comparison(),
            "selp" => self.selection(),
            "bra" => self.branch(),
            "ret" | "exit" if self.parts.len() == 1 => Ok(What::End),
            "ld" | "st" => self.access(),
            "cp" => self.copy(),
            "atom" | "red" => self.atomic(),
            "ldmatrix" => self.load_matrices(),
            "mma" => self.mma(),
            "bar" | "barrier" => self.barrier(),
            "shfl" => self.shuffle(),
            "vote" => self.vote(),
            "elect" => self.elect(),
            // Orders of memory between blocks, which run one behind the other here.
            "membar" | "fence" => Ok(What::Nothing),
            _ => Err(self.unknown()),
        }
    }

    fn compute(&mut self, compute: Compute) -> Result<What, SimError> {
        let zero = self.names.constant(Constant::Narrow(0));
        let none = self.names.constant(Constant::Wide(0));
        let operands = match compute {
            Compute::Narrow(n, _)
            | Compute::Wide(n, _)
            | Compute::Shift(n, _)
            | Compute::Widen(n, _) => n,
            Compute::Shrink(_) => 1,
        };
        self.count(operands + 1)?;
        // Which operands are wide; the result is too but for `Narrow` and `Shrink`.
        let wide = match compute {
            Compute::Narrow(..) => [false, false, false],
            Compute::Wide(..) => [true, true, true],
            Compute::Shift(..) => [true, false, false],
            Compute::Widen(..) => [false, false, true],
            Compute::Shrink(_) => [true, true, true],
        };
        let d = match compute {
            Compute::Narrow(..) | Compute::Shrink(_) => self.narrow(0)?,
            _ => self.wide(0)?,
        };
        let mut a = wide.map(|w| if w { none } else { zero });
        for (i, a) in a.iter_mut().enumerate().take(operands) {
            *a = if wide[i] { self.wide(i + 1)? } else { self.narrow(i + 1)? };
        }
        Ok(What::Compute { compute, d, a })
    }

    /// `setp.lt.s32 %p1, a, b` or `setp.lt.and.s32 %p1, a, b, %p2`.
    fn comparison(&mut self) -> Result<What, SimError> {
        let unknown = self.unknown();
        let (compare, join, kind) = match self.parts[..] {
            [_, compare, kind] => (compare, None, kind),
            [_, compare, join, kind] => (compare, Some(join), kind),
            _ => return Err(unknown),
        };
        self.count(if join.is_some() { 4 } else { 3 })?;
        let join = match join {
            Some(name) => {
                let joined = table::joined(name).ok_or_else(|| self.unknown())?;
                Some((joined, self.predicate(3)?))
            }
            None => None,
        };
        let d = self.names.predicate(self.s, self.operands[0])?;
        if let Some(compare) = table::compare_narrow(compare, kind) {
            let a = [self.narrow(1)?, self.narrow(2)?];
            return Ok(What::CompareNarrow { compare, d, a, join });
        }
        let compare = table::compare_wide(compare, kind).ok_or(unknown)?;
        Ok(What::CompareWide { compare, d, a: [self.wide(1)?, self.wide(2)?], join })
    }

    fn selection(&mut self) -> Result<What, SimError> {
        self.count(4)?;
        let by = self.predicate(3)?;
        Ok(match self.bytes()? {
            8 => What::SelectWide { d: self.wide(0)?, a: [self.wide(1)?, self.wide(2)?], by },
            _ => {
                What::SelectNarrow { d: self.narrow(0)?, a: [self.narrow(1)?, self.narrow(2)?], by }
            }
        })
    }

    fn branch(&mut self) -> Result<What, SimError> {
        self.count(1)?;
        if !matches!(self.parts[..], ["bra"] | ["bra", "uni"]) {
            return Err(self.unknown());
        }
        let to = self.labels.get(self.operands[0]).copied();
        Ok(What::Branch { to: to.ok_or_else(|| unknown(self.s, "there is no such label"))? })
    }

    /// `mov.b32 %r1, {%rs1, %rs2}` and `mov.b64 {%r1, %r2}, %rd1`.
    fn packed(&mut self) -> Result<What, SimError> {
        self.count(2)?;
        let bytes = self.bytes()?;
        let (into, from) = (elements(self.operands[0]), elements(self.operands[1]));
        let parts = into.len().max(from.len());
        if parts != 2 || into.len().min(from.len()) != 1 || bytes < 4 {
            return Err(unknown(self.s, "a register has two parts here"));
        }
        let mut places = |names: &[&str], bytes| -> Result<Vec<_>, SimError> {
            names.iter().map(|n| self.names.place(self.s, n, bytes)).collect()
        };
        if into.len() == 1 {
            let a = places(&from, bytes / 2)?;
            return Ok(What::Pack { d: places(&into, bytes)?[0], a });
        }
        let d = places(&into, bytes / 2)?;
        Ok(What::Unpack { d, a: places(&from, bytes)?[0] })
    }
}
