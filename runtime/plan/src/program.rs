//! Instruction lists and their text.
//!
//! ```text
//! loop layer 6
//!   launch 4 rowwise_0 arena+4096 params+1024+layer*65536 -> arena+90112 ; 14M.yml:14:5
//!   all_reduce tensor 1 8192 1 arena+90112 arena+90112 ; 14M.yml:14:5
//!   start all_gather data 1 4096 64 params+0+layer*524288 arena+0 @3 ; 14M.yml:20:3
//!   launch 5 …
//!   wait 3
//! end
//! loop layer 6 reverse
//! ```
//! `layer` in an address is the number of the iteration, `layer.next` that of the one behind it; behind the last one
//! is the first.
//!
//! Launches run on the compute stream, one after the other. Every mesh axis is a communication stream with
//! an order of its own: a collective that is started runs beside what follows until event `@n` is waited
//! for, or started again by the next iteration of a loop; one without an event is started and waited for at once.

use std::fmt::Write;

/// How far an address moves with a loop around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stride {
    /// Depth of the loop from the outside.
    pub depth: usize,
    /// Bytes per iteration.
    pub bytes: u64,
    /// Whether it is where the next iteration is; behind the last one is the first.
    pub next: bool,
}

/// A byte address: segment, offset, and a stride for each enclosing loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Segment number.
    pub segment: usize,
    /// Bytes.
    pub offset: u64,
    /// At most one for each loop around it.
    pub strides: Vec<Stride>,
}

/// Collectives between the ranks of a mesh axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    /// All get the sum.
    AllReduce,
    /// Each gets its part of the sum.
    ReduceScatter,
    /// All get the parts put together.
    AllGather,
    /// Each keeps its part of what all have; nothing is sent.
    TakePart,
    /// What is divided along the first dim is divided along the second one instead.
    AllToAll,
    /// The same from the second to the first.
    AllToAllBack,
}

impl Collective {
    /// All of them.
    pub const ALL: [Collective; 6] = [
        Collective::AllReduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::TakePart,
        Collective::AllToAll,
        Collective::AllToAllBack,
    ];

    /// Name in programs.
    pub fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::AllGather => "all_gather",
            Collective::TakePart => "take_part",
            Collective::AllToAll => "all_to_all",
            Collective::AllToAllBack => "all_to_all_back",
        }
    }

    /// How many sizes say what is divided: before, dim, after; or before, first dim, between, second
    /// dim, after.
    pub fn sizes(self) -> usize {
        match self {
            Collective::AllToAll | Collective::AllToAllBack => 5,
            _ => 3,
        }
    }

    /// Whether `ranks` ranks can make this collective of the undivided value.
    pub fn fits(self, shape: &[u64], ranks: u64) -> bool {
        let even = |at: usize| shape.get(at).is_some_and(|n| n.is_multiple_of(ranks));
        shape.len() == self.sizes()
            && match self {
                Collective::AllReduce => true,
                Collective::AllToAll | Collective::AllToAllBack => even(1) && even(3),
                _ => even(1),
            }
    }

    /// Bytes that a rank sends, of a value of `whole` elements on `ranks` ranks: reductions and
    /// gathers go around a ring.
    pub fn sent(self, whole: u64, ranks: u64) -> u64 {
        let part = whole * 4 / ranks * (ranks - 1);
        match self {
            Collective::AllReduce => 2 * part,
            Collective::ReduceScatter | Collective::AllGather => part,
            Collective::AllToAll | Collective::AllToAllBack => part / ranks,
            Collective::TakePart => 0,
        }
    }

    /// The collective called `name`.
    pub fn named(name: &str) -> Option<Collective> {
        Collective::ALL.into_iter().find(|e| e.name() == name)
    }

    /// Elements that a rank gives and gets, of a value of `whole` elements on `ranks` ranks.
    pub fn elements(self, whole: u64, ranks: u64) -> (u64, u64) {
        match self {
            Collective::AllReduce => (whole, whole),
            Collective::ReduceScatter | Collective::TakePart => (whole, whole / ranks),
            Collective::AllGather => (whole / ranks, whole),
            Collective::AllToAll | Collective::AllToAllBack => (whole / ranks, whole / ranks),
        }
    }
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub enum Instr {
    /// Runs a kernel over all of its tasks.
    Launch {
        /// Number of the kernel.
        kernel: usize,
        /// Operands, then results.
        args: Vec<Address>,
        /// YAML place.
        loc: String,
    },
    /// A collective of a value of f32 with the ranks along a mesh axis.
    Collective {
        /// The kind.
        kind: Collective,
        /// Mesh axis.
        axis: String,
        /// The undivided value: elements of the dims before the one that is divided, its size, elements
        /// of the dims after it; [`Collective::sizes`] numbers.
        shape: Vec<u64>,
        /// What this rank gives.
        from: Address,
        /// What it gets; may be `from` for an all-reduce.
        to: Address,
        /// The event to wait for before `to` is used or `from` written to; none if the collective is
        /// waited for at once.
        event: Option<usize>,
        /// YAML place.
        loc: String,
    },
    /// Waits for the collective that was started with this event.
    Wait {
        /// Number of the event.
        event: usize,
    },
    /// Runs a body `count` times.
    Loop {
        /// Name of the dim that is walked.
        var: String,
        /// Iterations.
        count: u64,
        /// From the last to the first.
        reverse: bool,
        /// What is repeated.
        body: Vec<Instr>,
    },
}

/// Where and why an instruction list cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ProgramError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Loops deeper than this are refused.
pub const MAX_DEPTH: usize = 16;

/// Behind a loop's name: the number of its next iteration.
const NEXT: &str = ".next";

impl Stride {
    /// So many bytes for each iteration of the loop that `var` names, of those around.
    pub fn of(var: &str, bytes: u64, around: &[impl AsRef<str>]) -> Option<Stride> {
        let (name, next) = match var.strip_suffix(NEXT) {
            Some(name) => (name, true),
            None => (var, false),
        };
        let depth = around.iter().position(|v| v.as_ref() == name)?;
        Some(Stride { depth, bytes, next })
    }
}

/// Events are numbered below this.
const MAX_EVENTS: usize = 1 << 16;

fn event_number(word: &str) -> Option<usize> {
    word.parse().ok().filter(|n| *n < MAX_EVENTS)
}

/// Prints instructions with segment and kernel names.
pub fn print_program(body: &[Instr], segments: &[String], kernels: &[String]) -> String {
    let mut out = String::new();
    print_into(&mut out, body, segments, kernels, &mut vec![]);
    out
}

fn print_into(
    out: &mut String,
    body: &[Instr],
    segments: &[String],
    kernels: &[String],
    vars: &mut Vec<String>,
) {
    for instr in body {
        let indent = "  ".repeat(vars.len());
        match instr {
            Instr::Launch { kernel, args, loc } => {
                let name = kernels.get(*kernel).map_or("?", String::as_str);
                let _ = write!(out, "{indent}launch {kernel} {name}");
                args.iter().for_each(|a| print_address(out, a, segments, vars));
                let _ = writeln!(out, " ; {loc}");
            }
            Instr::Collective { kind, axis, shape, from, to, event, loc } => {
                let start = if event.is_some() { "start " } else { "" };
                let _ = write!(out, "{indent}{start}{} {axis}", kind.name());
                shape.iter().for_each(|n| {
                    let _ = write!(out, " {n}");
                });
                print_address(out, from, segments, vars);
                print_address(out, to, segments, vars);
                if let Some(event) = event {
                    let _ = write!(out, " @{event}");
                }
                let _ = writeln!(out, " ; {loc}");
            }
            Instr::Wait { event } => {
                let _ = writeln!(out, "{indent}wait {event}");
            }
            Instr::Loop { var, count, reverse, body } => {
                let how = if *reverse { " reverse" } else { "" };
                let _ = writeln!(out, "{indent}loop {var} {count}{how}");
                vars.push(var.clone());
                print_into(out, body, segments, kernels, vars);
                vars.pop();
                let _ = writeln!(out, "{indent}end");
            }
        }
    }
}

fn print_address(out: &mut String, a: &Address, segments: &[String], vars: &[String]) {
    let segment = segments.get(a.segment).map_or("?", String::as_str);
    let _ = write!(out, " {segment}+{}", a.offset);
    for s in &a.strides {
        let var = vars.get(s.depth).map_or("?", String::as_str);
        let next = if s.next { NEXT } else { "" };
        let _ = write!(out, "+{var}{next}*{}", s.bytes);
    }
}

/// Reads what [`print_program`] wrote.
///
/// # Errors
/// Names the first line that is none of a program's, and why.
pub fn parse_program(
    text: &str,
    segments: &[String],
    kernels: &[String],
) -> Result<Vec<Instr>, ProgramError> {
    let mut reader = Reader { segments, kernels, open: vec![], body: vec![] };
    for (n, line) in text.lines().enumerate() {
        reader.line(line).map_err(|message| ProgramError { line: n + 1, message })?;
    }
    if !reader.open.is_empty() {
        let line = text.lines().count();
        return Err(ProgramError { line, message: "a loop has no end".into() });
    }
    Ok(reader.body)
}

/// A loop whose end has not come yet.
struct Open {
    var: String,
    count: u64,
    reverse: bool,
    /// The instructions in front of it.
    before: Vec<Instr>,
}

/// A program that is being read.
struct Reader<'a> {
    segments: &'a [String],
    kernels: &'a [String],
    /// Loops from the outermost to the innermost.
    open: Vec<Open>,
    /// Instructions so far of the innermost one.
    body: Vec<Instr>,
}

type Words<'a> = std::str::SplitWhitespace<'a>;

/// The next word as `read` takes it; `or` says what was expected.
fn next<T>(
    words: &mut Words<'_>,
    or: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, String> {
    words.next().and_then(read).ok_or_else(|| or.to_string())
}

impl Reader<'_> {
    fn line(&mut self, line: &str) -> Result<(), String> {
        // As `lines` takes it for part of the end of all lines but the last.
        let line = line.trim_end_matches('\r');
        let (code, loc) = line.split_once(" ; ").unwrap_or((line, ""));
        let mut words = code.split_whitespace();
        match words.next() {
            Some("loop") => self.begin(&mut words)?,
            Some("end") => {
                let Open { var, count, reverse, before } =
                    self.open.pop().ok_or("`end` without a loop")?;
                let body = std::mem::replace(&mut self.body, before);
                self.body.push(Instr::Loop { var, count, reverse, body });
            }
            Some("launch") => self.launch(&mut words, loc)?,
            Some("wait") => {
                let event = next(&mut words, "expected the number of an event", event_number)?;
                self.body.push(Instr::Wait { event });
            }
            Some("start") => {
                let kind = words.next().unwrap_or_default().to_string();
                self.collective(&kind, &mut words, true, loc)?;
            }
            Some(kind) => self.collective(kind, &mut words, false, loc)?,
            None => return Err("an empty line".into()),
        }
        match words.next() {
            None => Ok(()),
            Some(_) => Err("expected the end of the line".into()),
        }
    }

    /// `loop VAR COUNT [reverse]`.
    fn begin(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        let var = next(words, "a loop needs a name", |w| Some(w.to_string()))?;
        let positive = |w: &str| w.parse().ok().filter(|c| *c > 0);
        let count: u64 = next(words, "a loop needs a count", positive)?;
        let reverse = match words.next() {
            None => false,
            Some("reverse") => true,
            Some(_) => return Err("expected `reverse`".into()),
        };
        let known = self.open.iter().any(|o| o.var == var);
        if self.open.len() == MAX_DEPTH || known || var.ends_with(NEXT) {
            return Err("loops are nested wrongly".into());
        }
        let before = std::mem::take(&mut self.body);
        self.open.push(Open { var, count, reverse, before });
        Ok(())
    }

    /// `launch NUMBER NAME ADDRESS…`.
    fn launch(&mut self, words: &mut Words<'_>, loc: &str) -> Result<(), String> {
        let known = |w: &str| w.parse().ok().filter(|k| *k < self.kernels.len());
        let kernel: usize = next(words, "there is no such kernel", known)?;
        if words.next() != Some(self.kernels[kernel].as_str()) {
            return Err("number and name of the kernel differ".into());
        }
        let mut args = vec![];
        for word in words {
            args.push(self.address(word).ok_or("expected an address")?);
        }
        self.body.push(Instr::Launch { kernel, args, loc: loc.to_string() });
        Ok(())
    }

    /// `[start] KIND AXIS SIZES… FROM TO [@EVENT]`, behind its kind.
    fn collective(
        &mut self,
        kind: &str,
        words: &mut Words<'_>,
        started: bool,
        loc: &str,
    ) -> Result<(), String> {
        let kind = Collective::named(kind)
            .ok_or("expected launch, loop, end, start, wait or a collective")?;
        let axis = next(words, "expected an axis", |w| Some(w.to_string()))?;
        let mut shape = vec![];
        for _ in 0..kind.sizes() {
            shape.push(next(words, "expected more sizes", |w| w.parse().ok())?);
        }
        let from = next(words, "expected an address", |w| self.address(w))?;
        let to = next(words, "expected an address", |w| self.address(w))?;
        let number = |w: &str| event_number(w.strip_prefix('@')?);
        let event = match started {
            true => Some(next(words, "expected `@` and the number of an event", number)?),
            false => None,
        };
        self.body.push(Instr::Collective {
            kind,
            axis,
            shape,
            from,
            to,
            event,
            loc: loc.to_string(),
        });
        Ok(())
    }

    fn address(&self, word: &str) -> Option<Address> {
        let vars: Vec<&str> = self.open.iter().map(|o| o.var.as_str()).collect();
        address(word, self.segments, &vars)
    }
}

fn address(word: &str, segments: &[String], vars: &[&str]) -> Option<Address> {
    let mut parts = word.split('+');
    let name = parts.next()?;
    let segment = segments.iter().position(|s| s == name)?;
    let offset = parts.next()?.parse().ok()?;
    let strides = parts
        .map(|p| {
            let (var, bytes) = p.split_once('*')?;
            Stride::of(var, bytes.parse().ok()?, vars)
        })
        .collect::<Option<_>>()?;
    Some(Address { segment, offset, strides })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_lines_are_no_part_of_a_place() {
        let names = ["a".to_string()];
        let read = |text: &str| parse_program(text, &names, &names);
        let plain = read("launch 0 a a+0 ; m.yml:1:2\nwait 0\n").unwrap();
        for text in
            ["launch 0 a a+0 ; m.yml:1:2\r\nwait 0\r", "launch 0 a a+0 ; m.yml:1:2\r\r\nwait 0"]
        {
            assert_eq!(read(text).unwrap(), plain);
        }
        assert_eq!(read(&print_program(&plain, &names, &names)).unwrap(), plain);
    }
}
