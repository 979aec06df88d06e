//! Names of a kernel: registers, constants, parameters and memory.

use std::collections::BTreeMap;

use crate::fault::SimError;
use crate::instruction::{Address, Base, Place, Register, Space};
use crate::module::{Constant, Parameter, Special, bytes_of, unknown};
use crate::statements::Statement;

/// What the names of a kernel stand for.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Parameters in their order.
    pub parameters: Vec<Parameter>,
    /// Registers of each width so far.
    pub narrow: usize,
    pub wide: usize,
    pub predicates: usize,
    /// The registers that hold constants and special registers.
    pub constants: BTreeMap<Constant, Register>,
    /// Bytes of shared memory, and of each thread's local memory.
    pub shared: u32,
    pub local: u32,
    /// The scopes around the statement, outermost first.
    pub scopes: Vec<u32>,
    /// Families of registers (`%r<43>` has 43, `%p` is one) by scope and name.
    registers: BTreeMap<(u32, String), Family>,
    memory: BTreeMap<String, (Space, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Family {
    kind: Kind,
    first: Register,
    /// None: a single register without a number.
    count: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Predicate,
    Narrow,
    Wide,
}

impl Names {
    /// `.reg .b32 %r<43>` or `.reg .pred p, q`.
    pub fn declare_registers(&mut self, s: &Statement) -> Result<(), SimError> {
        let wrong = || unknown(s, "registers are declared as .reg .TYPE %NAME<COUNT>");
        let rest = s.text.trim_start_matches(".reg").trim();
        let (kind, list) = rest.split_once(' ').ok_or_else(wrong)?;
        let kind = match kind.trim_start_matches('.') {
            "pred" => Kind::Predicate,
            other => match bytes_of(other).ok_or_else(wrong)? {
                8 => Kind::Wide,
                _ => Kind::Narrow,
            },
        };
        let scope = self.scopes.last().copied().unwrap_or_default();
        for name in list.split(',').map(str::trim) {
            let (name, count) = match name.split_once('<') {
                Some((name, n)) => {
                    (name, Some(n.trim_end_matches('>').parse().map_err(|_| wrong())?))
                }
                None => (name, None),
            };
            let next = match kind {
                Kind::Predicate => &mut self.predicates,
                Kind::Narrow => &mut self.narrow,
                Kind::Wide => &mut self.wide,
            };
            let first = *next;
            *next += count.unwrap_or(1);
            self.registers.insert((scope, name.to_string()), Family { kind, first, count });
        }
        Ok(())
    }

    /// `.shared .align 16 .b8 NAME[1024]`, `.extern .shared .align 16 .b8 NAME[]`, `.local …`.
    pub fn declare_memory(&mut self, s: &Statement) -> Result<(), SimError> {
        let wrong = || unknown(s, "memory is declared as .shared .align N .TYPE NAME[COUNT]");
        let words: Vec<&str> = s.text.split(' ').collect();
        let space = if words.contains(&".local") { Space::Local } else { Space::Shared };
        let (name, count) = words.last().and_then(|n| n.split_once('[')).ok_or_else(wrong)?;
        let count: u32 = match count.trim_end_matches(']') {
            "" => 0,
            n => n.parse().map_err(|_| wrong())?,
        };
        let kind = words.get(words.len().wrapping_sub(2)).ok_or_else(wrong)?;
        let bytes = bytes_of(kind.trim_start_matches('.')).ok_or_else(wrong)?;
        let align = words.iter().position(|w| *w == ".align").and_then(|i| words.get(i + 1));
        let align = align.and_then(|a| a.parse().ok()).unwrap_or(bytes).max(1);
        let end = if space == Space::Local { &mut self.local } else { &mut self.shared };
        let offset = end.next_multiple_of(align);
        let size = count.checked_mul(bytes).ok_or_else(wrong)?;
        *end = offset.checked_add(size).ok_or_else(wrong)?;
        self.memory.insert(name.to_string(), (space, offset));
        Ok(())
    }

    /// The register `name`, of whatever width.
    fn find(&self, name: &str) -> Option<(Kind, Register)> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (family, number) = name.split_at(name.len() - digits);
        for scope in self.scopes.iter().rev().chain(&[0]) {
            let whole = self.registers.get(&(*scope, name.to_string()));
            if let Some(f) = whole.filter(|f| f.count.is_none()) {
                return Some((f.kind, f.first));
            }
            let of = self.registers.get(&(*scope, family.to_string()));
            if let (Some(f), Ok(n)) = (of, number.parse::<usize>()) {
                return f.count.filter(|c| n < *c).map(|_| (f.kind, f.first + n));
            }
        }
        None
    }

    /// A 32-bit register or constant.
    pub fn narrow(&mut self, s: &Statement, text: &str) -> Result<Register, SimError> {
        match self.find(text) {
            Some((Kind::Narrow, r)) => return Ok(r),
            Some(_) => return Err(unknown(s, &format!("{text} has not 32 bits"))),
            None => {}
        }
        if let Some(special) = special(text) {
            return Ok(self.constant(Constant::Special(special)));
        }
        let value = self.number(text).ok_or_else(|| unknown(s, &format!("what is {text}?")))?;
        Ok(self.constant(Constant::Narrow(value as u32)))
    }

    /// A 64-bit register or constant.
    pub fn wide(&mut self, s: &Statement, text: &str) -> Result<Register, SimError> {
        match self.find(text) {
            Some((Kind::Wide, r)) => return Ok(r),
            Some(_) => return Err(unknown(s, &format!("{text} has not 64 bits"))),
            None => {}
        }
        let value = self.number(text).ok_or_else(|| unknown(s, &format!("what is {text}?")))?;
        Ok(self.constant(Constant::Wide(value)))
    }

    /// A predicate.
    pub fn predicate(&self, s: &Statement, text: &str) -> Result<Register, SimError> {
        match self.find(text) {
            Some((Kind::Predicate, r)) => Ok(r),
            _ => Err(unknown(s, &format!("{text} is no predicate"))),
        }
    }

    /// A predicate that holds in every lane, or in none.
    pub fn constant_predicate(&mut self, s: &Statement, text: &str) -> Result<Register, SimError> {
        match text {
            "-1" | "1" | "true" => Ok(self.constant(Constant::Predicate(true))),
            "0" | "false" => Ok(self.constant(Constant::Predicate(false))),
            _ => self.predicate(s, text),
        }
    }

    /// A register that is loaded, stored, packed or unpacked; `bytes` is the width of a constant in its place.
    pub fn place(&mut self, s: &Statement, text: &str, bytes: u32) -> Result<Place, SimError> {
        Ok(match (text, self.find(text)) {
            ("_", _) => Place::Nowhere,
            (_, Some((Kind::Narrow, r))) => Place::Narrow(r),
            (_, Some((Kind::Wide, r))) => Place::Wide(r),
            (_, Some((Kind::Predicate, _))) => return Err(unknown(s, "a predicate has no bytes")),
            (_, None) if bytes == 8 => Place::Wide(self.wide(s, text)?),
            (_, None) => Place::Narrow(self.narrow(s, text)?),
        })
    }

    /// `[%rd1+8]`, `[%r1]`, `[name+4]`.
    pub fn address(&mut self, s: &Statement, text: &str) -> Result<Address, SimError> {
        let wrong = || unknown(s, &format!("{text} is no address"));
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(wrong)?;
        let inner = inner.trim();
        let cut = inner.get(1..).and_then(|t| t.find(['+', '-'])).map_or(inner.len(), |i| i + 1);
        let (name, offset) = inner.split_at(cut);
        let offset = match offset.trim_start_matches('+').trim() {
            "" => 0,
            n => n.parse::<i64>().map_err(|_| wrong())?,
        };
        let base = match self.find(name.trim()) {
            Some((Kind::Narrow, r)) => Base::Narrow(r),
            Some((Kind::Wide, r)) => Base::Wide(r),
            Some(_) => return Err(wrong()),
            None => {
                let at = self.number(name.trim()).ok_or_else(wrong)?;
                return Ok(Address { base: Base::None, offset: (at as i64).wrapping_add(offset) });
            }
        };
        Ok(Address { base, offset })
    }

    /// The parameter of `[name]`: its offset.
    pub fn parameter(&self, s: &Statement, text: &str) -> Result<usize, SimError> {
        let inner = text.trim_start_matches('[').trim_end_matches(']');
        let (name, more) = inner.split_once('+').unwrap_or((inner, "0"));
        let found = self.parameters.iter().find(|p| p.name == name);
        let more = more.parse::<usize>().ok();
        let place = found.zip(more).filter(|(p, m)| *m < p.bytes).map(|(p, m)| p.offset + m);
        place.ok_or_else(|| unknown(s, &format!("{inner} is no parameter")))
    }

    /// The register that holds a constant.
    pub fn constant(&mut self, c: Constant) -> Register {
        let next = match c {
            Constant::Narrow(_) | Constant::Special(_) => &mut self.narrow,
            Constant::Wide(_) => &mut self.wide,
            Constant::Predicate(_) => &mut self.predicates,
        };
        *self.constants.entry(c).or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    /// An integer, an f32 or f64 by its bits, or the place of a name in its memory.
    fn number(&self, text: &str) -> Option<u64> {
        if let Some((_, at)) = self.memory.get(text) {
            return Some(u64::from(*at));
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let digits = digits.trim_end_matches('U');
        let lower = digits.to_ascii_lowercase();
        let value = match lower.get(..2) {
            Some("0x" | "0f" | "0d") => u64::from_str_radix(&lower[2..], 16).ok()?,
            _ => digits.parse().ok()?,
        };
        Some(if negative { value.wrapping_neg() } else { value })
    }
}

fn special(text: &str) -> Option<Special> {
    match text {
        "%laneid" => return Some(Special::Lane),
        "%warpid" => return Some(Special::Warp),
        _ => {}
    }
    let (name, dim) = text.split_once('.')?;
    let dim = ["x", "y", "z"].iter().position(|d| *d == dim)?;
    Some(match name {
        "%tid" => Special::Thread(dim),
        "%ntid" => Special::Threads(dim),
        "%ctaid" => Special::Block(dim),
        "%nctaid" => Special::Blocks(dim),
        _ => return None,
    })
}
