//! PTX text as kernels: directives, registers, parameters, labels.

use std::collections::BTreeMap;

use crate::decode::{self, Names};
use crate::fault::SimError;
use crate::instruction::Instruction;
use crate::statements::{Statement, statements};

/// The kernels of a PTX file.
#[derive(Debug)]
pub struct Module {
    kernels: BTreeMap<String, Kernel>,
}

/// A kernel, ready to be launched.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) parameters: Vec<Parameter>,
    /// Registers of each width, those of constants and special registers included.
    pub(crate) narrow: usize,
    pub(crate) wide: usize,
    pub(crate) predicates: usize,
    /// What constants and special registers hold when a warp starts.
    pub(crate) constants: Vec<(usize, Constant)>,
    /// Bytes of shared memory that the kernel declares.
    pub(crate) shared: u32,
    /// Bytes of each thread's own memory.
    pub(crate) local: u32,
    /// Threads that a block must have (`.reqntid`), x, y, z.
    pub(crate) threads: Option<[u32; 3]>,
}

/// A parameter's place among the kernel's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub name: String,
    pub offset: usize,
    pub bytes: usize,
}

/// What a register holds from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Constant {
    /// In a 32-bit register.
    Narrow(u32),
    /// In a 64-bit register.
    Wide(u64),
    /// In a predicate.
    Predicate(bool),
    /// A special register.
    Special(Special),
}

/// Registers that say which thread runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
}

impl Module {
    /// Reads PTX.
    ///
    /// # Errors
    /// On the first statement that the simulator does not know, with its line.
    pub fn parse(text: &str) -> Result<Module, SimError> {
        let all = statements(text);
        let mut kernels = BTreeMap::new();
        // Shared memory outside of kernels: `.extern .shared` is what a launch adds.
        let mut outside = Names::default();
        let mut rest = &all[..];
        while let Some((s, after)) = rest.split_first() {
            rest = after;
            if s.text.starts_with(".section") {
                rest = behind_braces(rest);
            } else if s.text.contains(".entry") {
                let end = rest.len() - behind_braces(rest).len();
                let body = rest.get(1..end.saturating_sub(1)).unwrap_or_default();
                let kernel = kernel(s, body, &outside)?;
                kernels.insert(kernel.name.clone(), kernel);
                rest = &rest[end..];
            } else if s.text.contains(".shared") {
                outside.declare_memory(s)?;
            } else if !is_header(&s.text) {
                return Err(unknown(s, "this is no directive that the simulator knows"));
            }
        }
        Ok(Module { kernels })
    }

    /// A kernel by its name.
    ///
    /// # Errors
    /// If there is none.
    pub fn kernel(&self, name: &str) -> Result<&Kernel, SimError> {
        self.kernels.get(name).ok_or_else(|| SimError::NoKernel(name.to_string()))
    }

    /// All kernels, by name.
    pub fn kernels(&self) -> impl Iterator<Item = (&str, &Kernel)> {
        self.kernels.iter().map(|(name, k)| (name.as_str(), k))
    }
}

fn is_header(text: &str) -> bool {
    [".version", ".target", ".address_size", ".file", ".loc"].iter().any(|d| text.starts_with(d))
}

/// What follows the scope that begins here.
fn behind_braces(all: &[Statement]) -> &[Statement] {
    let mut depth = 0;
    for (i, s) in all.iter().enumerate() {
        depth += i32::from(s.text == "{") - i32::from(s.text == "}");
        if depth == 0 {
            return &all[i + 1..];
        }
    }
    &[]
}

pub(crate) fn unknown(s: &Statement, why: &str) -> SimError {
    SimError::Text { line: s.line, why: why.to_string(), text: s.text.clone() }
}

fn kernel(head: &Statement, body: &[Statement], outside: &Names) -> Result<Kernel, SimError> {
    let (name, parameters, threads) = read_head(head)?;
    let mut names = outside.clone();
    names.parameters = parameters;
    let mut labels = BTreeMap::new();
    let mut code = vec![];
    // Registers of inner scopes are renamed by their scope, so that each is one of its own.
    let mut scopes = vec![0];
    let mut opened = 0;
    for s in body {
        names.scopes.clone_from(&scopes);
        match s.text.as_str() {
            "{" => {
                opened += 1;
                scopes.push(opened);
            }
            "}" => {
                scopes.pop();
            }
            text if text.starts_with(".reg") => names.declare_registers(s)?,
            text if text.starts_with(".shared") || text.starts_with(".local") => {
                names.declare_memory(s)?;
            }
            text if text.starts_with(".loc") || text.starts_with(".pragma") => {}
            text if text.ends_with(':') => {
                labels.insert(text.trim_end_matches(':').to_string(), code.len());
            }
            text if text.starts_with('.') => return Err(unknown(s, "this directive is unknown")),
            _ => code.push((s, scopes.clone())),
        }
    }
    let mut instructions = vec![];
    for (s, scopes) in code {
        names.scopes = scopes;
        instructions.push(decode::instruction(s, &mut names, &labels)?);
    }
    Ok(Kernel {
        name,
        instructions,
        parameters: names.parameters,
        narrow: names.narrow,
        wide: names.wide,
        predicates: names.predicates,
        constants: names.constants.into_iter().map(|(c, r)| (r, c)).collect(),
        shared: names.shared,
        local: names.local,
        threads,
    })
}

type Head = (String, Vec<Parameter>, Option<[u32; 3]>);

/// `.visible .entry NAME ( .param …, … ) .reqntid x, y, z`.
fn read_head(s: &Statement) -> Result<Head, SimError> {
    let wrong = || unknown(s, "this is no head of a kernel");
    let (_, rest) = s.text.split_once(".entry").ok_or_else(wrong)?;
    let (name, rest) = rest.split_once('(').ok_or_else(wrong)?;
    let (list, after) = rest.rsplit_once(')').ok_or_else(wrong)?;
    let mut parameters = vec![];
    let mut end = 0usize;
    for p in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let name = p.split(' ').next_back().ok_or_else(wrong)?;
        let (name, bytes, align) = match name.split_once('[') {
            Some((name, count)) => {
                let count = count.trim_end_matches(']').parse().map_err(|_| wrong())?;
                (name, count, word_after(p, ".align").unwrap_or(1))
            }
            None => {
                let kind = p.split(' ').nth(1).ok_or_else(wrong)?;
                let bytes = bytes_of(kind.trim_start_matches('.')).ok_or_else(wrong)? as usize;
                (name, bytes, bytes)
            }
        };
        let offset = end.next_multiple_of(align.max(1));
        end = offset + bytes;
        parameters.push(Parameter { name: name.to_string(), offset, bytes });
    }
    let threads = after.find(".reqntid").map(|at| {
        let mut sizes = after[at + ".reqntid".len()..].split('.').next().unwrap_or("").split(',');
        let mut next = || sizes.next().and_then(|t| t.trim().parse().ok()).unwrap_or(1);
        [next(), next(), next()]
    });
    Ok((name.trim().to_string(), parameters, threads))
}

fn word_after(text: &str, word: &str) -> Option<usize> {
    let mut words = text.split(' ').skip_while(|w| *w != word);
    words.nth(1)?.parse().ok()
}

/// Bytes of a fundamental type's name.
pub(crate) fn bytes_of(kind: &str) -> Option<u32> {
    Some(match kind {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}
