//! Collectives under way: until one is waited for nobody touches the bytes it writes or writes those it reads.
//! It is waited for by a wait in the body that started it, or behind the loops around that; or, where it goes
//! on into the next iteration of a loop, by the start of its like there.
//!
//! Addresses are compared as sums over the loops around them: two ranges are apart if they are in every
//! pair of iterations that can happen while the collective is under way. Loops around its start have one
//! iteration then, or the one after that, loops inside all of theirs. A body that leaves collectives on their way is
//! walked twice: as the first iteration, and as one that has those of the iteration before. What the second leaves
//! is what it found, so that no third one differs.

use crate::{Address, Collective, Instr, Plan, PlanError, Program};

/// Bytes that an instruction reads or writes.
#[derive(Clone)]
struct Access {
    segment: usize,
    offset: i128,
    /// Bytes per iteration of each loop around it.
    strides: Vec<i128>,
    bytes: u64,
    writes: bool,
}

impl Access {
    /// The same bytes seen from an iteration later by `by` of the loop at `depth`.
    fn shift(&mut self, depth: usize, by: i128) {
        self.offset += by * self.strides.get(depth).copied().unwrap_or(0);
    }
}

/// A started collective.
#[derive(Clone)]
struct Flight<'a> {
    event: usize,
    kind: Collective,
    loc: &'a str,
    /// What it reads, and what it writes.
    accesses: [Access; 2],
    /// Loops around the body that may wait for it.
    depth: usize,
    /// Whether an iteration before this one started it.
    earlier: bool,
}

/// Checks a program whose addresses are inside their segments.
pub fn check(plan: &Plan, program: &Program) -> Result<(), PlanError> {
    let mut c = Check { plan, program, flights: vec![], walked: vec![], counts: vec![] };
    c.body(&program.body)?;
    match c.flights.first() {
        None => Ok(()),
        Some(f) => Err(c.wrong(format!("{} at {} is never waited for", f.kind.name(), f.loc))),
    }
}

struct Check<'a> {
    plan: &'a Plan,
    program: &'a Program,
    flights: Vec<Flight<'a>>,
    /// Of the loops around: the first and the last iteration that is walked now.
    walked: Vec<(u64, u64)>,
    /// Their iterations.
    counts: Vec<u64>,
}

impl<'a> Check<'a> {
    fn wrong(&self, what: String) -> PlanError {
        PlanError::Invalid(format!("{}: {what}", self.program.name))
    }

    fn body(&mut self, body: &'a [Instr]) -> Result<(), PlanError> {
        let depth = self.walked.len();
        for instr in body {
            match instr {
                Instr::Loop { count, reverse, body, .. } => {
                    self.repeat(*count, *reverse, body)?;
                }
                Instr::Launch { kernel, args, loc } => {
                    let k = &self.plan.tables.kernels[*kernel];
                    let accesses = args.iter().zip(&k.args).enumerate();
                    for (n, (at, bytes)) in accesses {
                        let access = self.access(at, *bytes, n >= k.operands);
                        self.free(&access, &k.name, loc)?;
                    }
                }
                Instr::Collective { kind, axis, shape, from, to, event, loc } => {
                    let ranks = self.plan.along(axis, 0).0;
                    let (given, got) = kind.elements(shape.iter().product(), ranks);
                    let accesses =
                        [self.access(from, 4 * given, false), self.access(to, 4 * got, true)];
                    // The start waits for that of an iteration before.
                    self.flights.retain(|f| !f.earlier || Some(f.event) != *event);
                    for access in &accesses {
                        self.free(access, kind.name(), loc)?;
                    }
                    let Some(event) = *event else { continue };
                    if *kind == Collective::TakePart {
                        return Err(self.wrong("take_part sends nothing to wait for".into()));
                    }
                    if self.flights.iter().any(|f| f.event == event) {
                        return Err(self.wrong(format!("event {event} is started twice")));
                    }
                    let (kind, earlier) = (*kind, false);
                    self.flights.push(Flight { event, kind, loc, accesses, depth, earlier });
                }
                Instr::Wait { event } => {
                    let here = |f: &Flight<'_>| f.event == *event && f.depth == depth;
                    let Some(at) = self.flights.iter().position(here) else {
                        let what = format!("waits for event {event}, which is not under way there");
                        return Err(self.wrong(what));
                    };
                    self.flights.remove(at);
                }
            }
        }
        Ok(())
    }

    fn repeat(&mut self, count: u64, reverse: bool, body: &'a [Instr]) -> Result<(), PlanError> {
        let (depth, last) = (self.walked.len(), count - 1);
        self.walked.push((0, last));
        self.counts.push(count);
        self.body(body)?;
        if count > 1 && self.flights.iter().any(|f| f.depth > depth) {
            for f in self.flights.iter_mut().filter(|f| f.depth > depth) {
                f.earlier = true;
                f.accesses.iter_mut().for_each(|a| a.shift(depth, if reverse { 1 } else { -1 }));
            }
            self.walked[depth] = if reverse { (0, last - 1) } else { (1, last) };
            self.body(body)?;
        }
        self.walked.pop();
        self.counts.pop();
        // What is still under way is of the last iteration.
        let end = if reverse { 0 } else { i128::from(last) };
        for f in self.flights.iter_mut().filter(|f| f.depth > depth) {
            (f.depth, f.earlier) = (depth, false);
            for a in &mut f.accesses {
                a.shift(depth, end);
                a.strides.truncate(depth);
            }
        }
        Ok(())
    }

    fn access(&self, at: &Address, mut bytes: u64, writes: bool) -> Access {
        let mut strides = vec![0; self.counts.len()];
        // Strides are of loops around. Where the next iteration is may be anywhere in the loop.
        for s in &at.strides {
            match s.next {
                true => bytes += (self.counts[s.depth] - 1) * s.bytes,
                false => strides[s.depth] += i128::from(s.bytes),
            }
        }
        let (segment, before) = self.plan.allocation(at.segment);
        let offset = i128::from(at.offset) + i128::from(before);
        Access { segment, offset, strides, bytes, writes }
    }

    /// Nothing under way has a say in these bytes.
    fn free(&self, access: &Access, who: &str, loc: &str) -> Result<(), PlanError> {
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
    fn may_meet(&self, a: &Access, b: &Access) -> bool {
        if a.segment != b.segment {
            return false;
        }
        let mut least = a.offset - b.offset;
        let mut most = least;
        for (depth, (first, last)) in self.walked.iter().enumerate() {
            let stride = |x: &Access| x.strides.get(depth).copied().unwrap_or(0);
            let change = stride(a) - stride(b);
            let ends = [change * i128::from(*first), change * i128::from(*last)];
            least += ends[0].min(ends[1]);
            most += ends[0].max(ends[1]);
        }
        // `a` starts before the end of `b`, and ends behind its start.
        least < i128::from(b.bytes) && most > -i128::from(a.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernel, Segment, parse_program, print_program};

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
    fn parts_of_a_segment_are_its_bytes() {
        let segments = ["a", "b", "c"].map(str::to_string);
        let segment = |n: usize, within| Segment {
            name: segments[n].clone(),
            bytes: vec![256],
            within,
            ..Segment::default()
        };
        let mut plan = plan();
        // `c` begins at byte 64 of `b`.
        plan.tables.segments = vec![segment(0, None), segment(1, None), segment(2, Some((1, 64)))];
        for (write, fine) in [("c+0", false), ("c+63", false), ("c+64", true), ("b+128", true)] {
            let text = format!(
                "start all_gather data 1 32 1 a+0 b+0 @0 ; -\nlaunch 0 k a+128 {write} ; -\nwait 0\n"
            );
            let body = parse_program(&text, &segments, &["k".to_string()]).unwrap();
            let program = Program { name: "p".into(), body, ..Program::default() };
            assert_eq!(check(&plan, &program).is_ok(), fine, "{write}");
        }
    }

    #[test]
    fn loops_move_what_is_compared() {
        let with = |launch: &str| {
            checked(&format!(
                "loop layer 4\n  start all_gather data 1 32 1 a+0+layer*64 b+0+layer*128 @0 ; -\n  \
                 {launch}\n  wait 0\nend\n"
            ))
        };
        // Each iteration has bytes of its own, and its collective is over when the next one begins.
        assert_eq!(with("launch 0 k b+512 b+128+layer*128 ; -"), Ok(()));
        assert!(with("launch 0 k b+512 b+0+layer*128 ; -").is_err());
        assert!(with("launch 0 k b+512 b+384 ; -").is_err());
        assert!(with("loop row 3\n    launch 0 k b+512 b+128+layer*128+row*64 ; -\n  end").is_ok());
        assert!(with("loop row 3\n    launch 0 k b+512 b+0+layer*128+row*64 ; -\n  end").is_err());
    }

    #[test]
    fn the_next_iteration_may_be_any() {
        let with = |write: u64| {
            checked(&format!(
                "loop layer 4\n  start all_gather data 1 32 1 a+64+layer.next*64 b+0 @0 ; -\n  \
                 launch 0 k a+320 a+{write} ; -\n  wait 0\nend\n"
            ))
        };
        // Slices 0 to 3 of 64 bytes from byte 64 on are sent, one in each iteration.
        for (write, fine) in [(0, true), (64, false), (256, false), (320, true)] {
            assert_eq!(with(write).is_ok(), fine, "{write}");
        }
        assert!(checked("loop layer.next 4\n  launch 0 k a+0 a+64 ; -\nend\n").is_err());
    }

    /// Slices of `a` are summed in place, the last one first, while the next is made: `launch` is in that loop,
    /// `behind` after it.
    fn sums(how: &str, launch: &str, behind: &str) -> Result<(), String> {
        checked(&format!(
            "loop layer 4{how}\n  launch 0 k b+0 a+0+layer*64 ; -\n  {launch}\n  \
             start all_reduce data 1 16 1 a+0+layer*64 a+0+layer*64 @0 ; x.yml:1:1\nend\n{behind}\n"
        ))
    }

    #[test]
    fn collectives_go_on_into_the_next_iteration() {
        for how in ["", " reverse"] {
            let idle = "launch 0 k b+0 b+64 ; -";
            assert_eq!(sums(how, idle, "wait 0\nlaunch 0 k a+0 a+64 ; -"), Ok(()));
            // Of the slices on both sides, one is still under way.
            let forward = how.is_empty();
            let beside = sums(how, "launch 0 k a+64+layer*64 b+0 ; -", "wait 0");
            assert_eq!(beside.is_ok(), forward);
            // So is the first one made, at some time; the last one made never is in the loop.
            for (at, fine) in [(0, !forward), (192, forward)] {
                let e = sums(how, &format!("launch 0 k a+{at} b+0 ; -"), "wait 0");
                assert_eq!(e.is_ok(), fine, "{e:?}");
            }
            // Behind the loop the last iteration's are.
            let (last, others) = if how.is_empty() { (192, 0) } else { (0, 64) };
            let read = |at| sums(how, idle, &format!("launch 0 k a+{at} b+0 ; -\nwait 0"));
            assert!(read(last).is_err());
            assert_eq!(read(others), Ok(()));
        }
        // A value that every iteration has anew is still being sent.
        let e = checked(
            "loop layer 4 reverse\n  launch 0 k b+0 a+0 ; -\n  \
             start reduce_scatter data 1 16 1 a+0 b+64+layer*64 @0 ; -\nend\nwait 0\n",
        );
        assert!(e.unwrap_err().contains("still sends"));
    }

    #[test]
    fn every_start_has_one_wait() {
        let start =
            |event| format!("start all_reduce data 1 16 1 a+{0} a+{0} @{event} ; -", 64 * event);
        for bad in [
            start(0),
            "wait 0".into(),
            format!("{}\nwait 1", start(0)),
            format!("{}\n{}\nwait 0", start(0), start(0)),
            format!("{}\nwait 0\nwait 0", start(0)),
            format!("loop i 2\n  {}\nend", start(0)),
            format!("loop i 2\n  wait 0\n  {}\nend\nwait 0", start(0)),
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
