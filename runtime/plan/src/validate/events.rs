//! Exchanges under way: each is waited for once, in the body that started it, and until then nobody
//! touches the bytes it writes or writes those it reads.
//!
//! Addresses are compared as sums over the loops around them: two ranges are apart if they are in every
//! pair of iterations that can happen while the exchange is under way. Loops around its start have one
//! iteration then, loops inside all of theirs.

use crate::{Address, Exchange, Instr, Plan, PlanError, Program};

/// Bytes that an instruction reads or writes.
struct Access<'a> {
    at: &'a Address,
    bytes: u64,
    writes: bool,
}

/// A started exchange.
struct Flight<'a> {
    event: usize,
    kind: Exchange,
    loc: &'a str,
    /// What it reads, and what it writes.
    accesses: [Access<'a>; 2],
}

/// Checks a program whose addresses are inside their segments.
pub fn check(plan: &Plan, program: &Program) -> Result<(), PlanError> {
    let mut c = Check { plan, program, flights: vec![], counts: vec![] };
    c.body(&program.body)
}

struct Check<'a> {
    plan: &'a Plan,
    program: &'a Program,
    flights: Vec<Flight<'a>>,
    counts: Vec<u64>,
}

impl<'a> Check<'a> {
    fn wrong(&self, what: String) -> PlanError {
        PlanError::Invalid(format!("{}: {what}", self.program.name))
    }

    fn body(&mut self, body: &'a [Instr]) -> Result<(), PlanError> {
        let outside = self.flights.len();
        for instr in body {
            match instr {
                Instr::Loop { count, body, .. } => {
                    self.counts.push(*count);
                    self.body(body)?;
                    self.counts.pop();
                }
                Instr::Launch { kernel, args, loc } => {
                    let k = &self.plan.tables.kernels[*kernel];
                    let accesses = args.iter().zip(&k.args).enumerate();
                    for (n, (at, bytes)) in accesses {
                        let access = Access { at, bytes: *bytes, writes: n >= k.operands };
                        self.free(&access, &k.name, loc)?;
                    }
                }
                Instr::Exchange { kind, axis, shape, from, to, event, loc } => {
                    let ranks = self.plan.along(axis, 0).0;
                    let (given, got) = kind.elements(shape.iter().product(), ranks);
                    let accesses = [
                        Access { at: from, bytes: 4 * given, writes: false },
                        Access { at: to, bytes: 4 * got, writes: true },
                    ];
                    for access in &accesses {
                        self.free(access, kind.name(), loc)?;
                    }
                    let Some(event) = *event else { continue };
                    if *kind == Exchange::TakePart {
                        return Err(self.wrong("take_part sends nothing to wait for".into()));
                    }
                    if self.flights.iter().any(|f| f.event == event) {
                        return Err(self.wrong(format!("event {event} is started twice")));
                    }
                    self.flights.push(Flight { event, kind: *kind, loc, accesses });
                }
                Instr::Wait { event } => {
                    let mut own = self.flights[outside..].iter();
                    let Some(at) = own.position(|f| f.event == *event) else {
                        let what = format!("waits for event {event}, which is not under way there");
                        return Err(self.wrong(what));
                    };
                    self.flights.remove(outside + at);
                }
            }
        }
        match self.flights.get(outside) {
            None => Ok(()),
            Some(f) => {
                Err(self.wrong(format!("{} at {} is never waited for", f.kind.name(), f.loc)))
            }
        }
    }

    /// Nothing under way has a say in these bytes.
    fn free(&self, access: &Access<'_>, who: &str, loc: &str) -> Result<(), PlanError> {
        for f in &self.flights {
            for other in &f.accesses {
                if (access.writes || other.writes) && self.may_meet(access, other) {
                    let how = if other.writes { "before it is there" } else { "too early" };
                    let does = if access.writes { "writes to" } else { "reads" };
                    return Err(self.wrong(format!(
                        "{who} at {loc} {does} what {} at {} ({}) {how}",
                        f.kind.name(),
                        f.loc,
                        if other.writes { "makes" } else { "still sends" },
                    )));
                }
            }
        }
        Ok(())
    }

    /// Whether two ranges can have a byte in common.
    fn may_meet(&self, a: &Access<'_>, b: &Access<'_>) -> bool {
        if a.at.segment != b.at.segment {
            return false;
        }
        let mut least = i128::from(a.at.offset) - i128::from(b.at.offset);
        let mut most = least;
        for (depth, count) in self.counts.iter().enumerate() {
            let stride = |x: &Address| -> i128 {
                x.strides.iter().filter(|(d, _)| *d == depth).map(|(_, s)| i128::from(*s)).sum()
            };
            let change = (stride(a.at) - stride(b.at)) * i128::from(count - 1);
            least += change.min(0);
            most += change.max(0);
        }
        // `a` starts before the end of `b`, and ends behind its start.
        least < i128::from(b.bytes) && most > -i128::from(a.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernel, parse_program, print_program};

    /// Kernel `k` reads 64 bytes and writes 64 bytes.
    fn plan() -> Plan {
        let kernel = Kernel {
            name: "k".into(),
            family: "rowwise".into(),
            tasks: 1,
            scratch: 0,
            args: vec![64, 64],
            operands: 1,
            loc: "-".into(),
            ..Kernel::default()
        };
        let mut plan = Plan::default();
        plan.tables.kernels = vec![kernel];
        plan.tables.mesh = vec![("data".into(), 2)];
        plan
    }

    fn checked(text: &str) -> Result<(), String> {
        let (segments, kernels) = (["a".to_string(), "b".to_string()], ["k".to_string()]);
        let body = parse_program(text, &segments, &kernels).map_err(|e| e.to_string())?;
        assert_eq!(print_program(&body, &segments, &kernels), text);
        let program = Program { name: "p".into(), body, ..Program::default() };
        check(&plan(), &program).map_err(|e| e.to_string())
    }

    /// The gather reads a+0..64 and writes b+0..128 until it is waited for.
    fn beside(instr: &str) -> Result<(), String> {
        checked(&format!(
            "start all_gather data 1 32 1 a+0 b+0 @0 ; x.yml:1:1\n{instr}\nwait 0\n\
             launch 0 k b+0 a+0 ; -\n"
        ))
    }

    #[test]
    fn bytes_under_way_are_left_alone() {
        for fine in ["launch 0 k a+0 b+128 ; -", "launch 0 k a+64 a+64 ; -"] {
            assert_eq!(beside(fine), Ok(()), "{fine}");
        }
        for (bad, what) in [
            ("launch 0 k b+64 a+64 ; -", "reads what all_gather at x.yml:1:1 (makes)"),
            ("launch 0 k a+64 b+64 ; -", "writes to what all_gather at x.yml:1:1 (makes)"),
            ("launch 0 k a+64 a+0 ; -", "writes to what all_gather at x.yml:1:1 (still sends)"),
            ("all_reduce data 1 16 1 a+0 a+0 ; -", "all_reduce"),
            ("start all_gather data 1 2 1 a+0 a+60 @1 ; -\nwait 1", "all_gather"),
        ] {
            let e = beside(bad).unwrap_err();
            assert!(e.contains(what), "{bad}: {e}");
        }
        // An operand may be read by others meanwhile.
        assert_eq!(beside("start all_gather data 1 32 1 a+0 a+64 @1 ; -\nwait 1"), Ok(()));
    }

    #[test]
    fn loops_move_what_is_compared() {
        let with = |launch: &str| {
            checked(&format!(
                "loop layer 4\n  start all_gather data 1 32 1 a+0+layer*64 b+0+layer*128 @0 ; -\n  \
                 {launch}\n  wait 0\nend\n"
            ))
        };
        // Each iteration has bytes of its own, and its exchange is over when the next one begins.
        assert_eq!(with("launch 0 k b+512 b+128+layer*128 ; -"), Ok(()));
        assert!(with("launch 0 k b+512 b+0+layer*128 ; -").is_err());
        assert!(with("launch 0 k b+512 b+384 ; -").is_err());
        assert!(with("loop row 3\n    launch 0 k b+512 b+128+layer*128+row*64 ; -\n  end").is_ok());
        assert!(with("loop row 3\n    launch 0 k b+512 b+0+layer*128+row*64 ; -\n  end").is_err());
    }

    #[test]
    fn every_start_has_one_wait_in_its_body() {
        let start =
            |event| format!("start all_reduce data 1 16 1 a+{0} a+{0} @{event} ; -", 64 * event);
        for bad in [
            start(0),
            "wait 0".into(),
            format!("{}\nwait 1", start(0)),
            format!("{}\n{}\nwait 0", start(0), start(0)),
            format!("{}\nwait 0\nwait 0", start(0)),
            format!("loop i 2\n  {}\nend\nwait 0", start(0)),
            format!("{}\nloop i 2\n  wait 0\nend", start(0)),
            "start take_part data 1 32 1 a+0 b+0 @0 ; -\nwait 0".into(),
            "start all_reduce data 1 16 1 a+0 a+0 ; -".into(),
            "all_reduce data 1 16 1 a+0 a+0 @0 ; -".into(),
            "start all_reduce data 1 16 1 a+0 a+0 @65536 ; -".into(),
        ] {
            let text = format!("{bad}\n");
            assert!(checked(&text).is_err(), "{bad}");
        }
        let fine = format!("{}\n{}\nwait 1\nwait 0\n{}\nwait 0\n", start(0), start(1), start(0));
        assert_eq!(checked(&fine), Ok(()));
    }
}
