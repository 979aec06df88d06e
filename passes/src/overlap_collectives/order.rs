//! The order of one function: a list schedule on a clock.
//!
//! The clock is that of the compute stream. At each step collectives whose operand is there start on their
//! axis' stream, and the first op runs that has all it needs; if that is none, the clock goes on to the
//! first arrival. Views cost nothing and stand before their first user, waits before the first use.

use std::collections::HashMap;

use neoxc_ir::op::Class;
use neoxc_ir::{Function, Module, Op, OpKind, ValueId};

use super::Times;
use super::times::Late;
use crate::pass::PassError;

/// What is known of a function while it is put in order.
pub struct Order<'a> {
    f: &'a Function,
    /// Seconds of each op, and the op that makes each value.
    seconds: Vec<f64>,
    defs: Vec<Option<usize>>,
    /// When each op's turn would be if all ran one after the other; for collectives that of their first user.
    turn: Vec<f64>,
    /// Bytes that ops may make ahead of their turn, or collectives of weights have on their way.
    ahead: u64,
    /// What is to be done from each op on until the end, collectives included; empty if ops keep their order.
    tail: Vec<f64>,
    /// By collective: the ops that read the bytes it could write to, behind which it starts.
    behind: HashMap<usize, Vec<usize>>,
    /// When each op is done, once it has run or started.
    done: Vec<Option<f64>>,
    /// Results that stay on their way when the function ends.
    keeps: Vec<ValueId>,
    /// What loops leave on its way, and when it is there.
    late: HashMap<ValueId, (Late, Option<f64>)>,
    /// When each axis' stream is free.
    streams: HashMap<String, f64>,
    now: f64,
    out: Vec<Op>,
    /// What stands for a collective's result once it was waited for.
    waited: HashMap<ValueId, ValueId>,
    new: Function,
}

impl<'a> Order<'a> {
    /// `late`: the numbers of the results that may be on their way when it ends.
    pub fn new(
        m: &'a Module,
        f: &'a Function,
        late: &[usize],
        ahead: u64,
        times: &Times,
    ) -> Order<'a> {
        let keeps = late.iter().map(|n| f.results[*n]).collect();
        let results =
            f.ops.iter().flat_map(|op| op.results.iter().enumerate().map(move |r| (op, r)));
        let late =
            results.filter_map(|(op, (n, r))| Some((*r, (times.late(op, n)?.clone(), None))));
        let late = late.collect();
        let seconds: Vec<f64> = f.ops.iter().map(|op| times.op(m, f, op)).collect();
        let mut sum = 0.0;
        let mut turn: Vec<f64> = vec![];
        for (op, s) in f.ops.iter().zip(&seconds) {
            turn.push(sum);
            sum += if Times::is_collective(op) { 0.0 } else { *s };
        }
        // Backwards, so that views and collectives have the turn of those who use what they make.
        for i in (0..f.ops.len()).rev() {
            let op = &f.ops[i];
            if Times::is_collective(op) || op.kind.def().class() == Class::View {
                let users = (i + 1..f.ops.len())
                    .filter(|j| f.ops[*j].operands.iter().any(|o| op.results.contains(o)));
                turn[i] = users.map(|j| turn[j]).fold(sum, f64::min);
            }
        }
        Order {
            f,
            seconds,
            defs: f.definitions(),
            turn,
            ahead,
            tail: vec![],
            behind: HashMap::new(),
            done: vec![None; f.ops.len()],
            keeps,
            late,
            streams: HashMap::new(),
            now: 0.0,
            out: vec![],
            waited: HashMap::new(),
            new: f.clone(),
        }
    }

    /// What a body gathers for its next iteration starts when what it was given is no longer needed, if that leaves
    /// enough time: then it takes the same bytes. `carried`: how many values iterations hand on.
    #[must_use]
    pub fn reuse(mut self, carried: usize) -> Self {
        let f = self.f;
        let end: f64 = (0..f.ops.len())
            .filter(|i| !Times::is_collective(&f.ops[*i]))
            .map(|i| self.seconds[i])
            .sum();
        for (given, made) in f.params.iter().zip(&f.results).take(carried) {
            let Some(at) = self.defs[made.index()] else { continue };
            let readers = self.readers(*given);
            let done = readers.iter().map(|i| self.turn[*i] + self.seconds[*i]).fold(0.0, f64::max);
            if Times::is_collective(&f.ops[at]) && done + self.seconds[at] <= end {
                self.behind.insert(at, readers);
            }
        }
        self
    }

    /// Of the ops that have all they need, the one goes first behind which there is most to be done.
    #[must_use]
    pub fn longest_first(mut self) -> Self {
        let f = self.f;
        let mut tail = vec![0.0; f.ops.len()];
        for (i, op) in f.ops.iter().enumerate().rev() {
            let users = (i + 1..f.ops.len())
                .filter(|j| f.ops[*j].operands.iter().any(|o| op.results.contains(o)));
            tail[i] = self.seconds[i] + users.map(|j| tail[j]).fold(0.0, f64::max);
        }
        self.tail = tail;
        self
    }

    /// Ops that read `v`, through views too.
    fn readers(&self, v: ValueId) -> Vec<usize> {
        let mut out = vec![];
        for (i, op) in self.f.ops.iter().enumerate().filter(|(_, op)| op.operands.contains(&v)) {
            match op.kind.def().class() {
                Class::View => out.extend(self.readers(op.results[0])),
                _ => out.push(i),
            }
        }
        out
    }

    /// The function in its new order, and its seconds.
    pub fn run(mut self) -> Result<(Function, f64), PassError> {
        let f = self.f;
        let computes = |i: &usize| {
            !Times::is_collective(&f.ops[*i]) && f.ops[*i].kind.def().class() != Class::View
        };
        let mut left: Vec<usize> = (0..f.ops.len()).filter(computes).collect();
        while !left.is_empty() || self.collectives_left() {
            let head = left.first().copied();
            let started = self.start_collectives(head)?;
            // The first that has all it needs, in the old order, as long as not too much is ahead of it.
            let ahead: u64 = match head {
                Some(h) => (h..f.ops.len())
                    .filter(|j| computes(j) && self.done[*j].is_some())
                    .map(|j| self.bytes(j))
                    .sum(),
                None => 0,
            };
            let mut first: Option<(usize, f64)> = None;
            for (n, i) in left.iter().enumerate() {
                let Some(ready) = self.ready(*i) else { continue };
                if n > 0 && ahead + self.bytes(*i) > self.ahead {
                    continue;
                }
                let at = ready.max(self.now);
                let tail = |n: usize| self.tail.get(left[n]).copied().unwrap_or(0.0);
                let sooner = |(m, best)| at < best || at == best && tail(n) > tail(m);
                if first.is_none_or(sooner) {
                    first = Some((n, at));
                }
                if at == self.now && self.tail.is_empty() {
                    break;
                }
            }
            match first {
                // What has arrived makes room for others to start before the op runs.
                Some((_, at)) if at > self.now => self.now = at,
                Some((n, _)) => {
                    let i = left.remove(n);
                    self.emit(i)?;
                    self.now += self.seconds[i];
                    self.done[i] = Some(self.now);
                    self.leave_on_its_way(i);
                }
                None if started => {}
                // Only collectives are left that wait for each other.
                None => {
                    let next = (0..f.ops.len())
                        .filter(|i| Times::is_collective(&f.ops[*i]) && self.done[*i].is_none());
                    let later = next.filter_map(|i| self.ready(i)).filter(|t| *t > self.now);
                    let at = later.fold(f64::MAX, f64::min);
                    // One that nobody needs yet may stand in front of one that is needed.
                    if at == f64::MAX && self.start_collectives(None)? {
                        continue;
                    }
                    if at == f64::MAX {
                        let what = format!("@{}: a collective is needed by itself", f.name);
                        return Err(PassError::internal(what));
                    }
                    self.now = at;
                }
            }
        }
        self.finish()
    }

    fn collectives_left(&self) -> bool {
        (0..self.f.ops.len())
            .any(|i| Times::is_collective(&self.f.ops[i]) && self.done[i].is_none())
    }

    fn bytes(&self, i: usize) -> u64 {
        self.f.ops[i].results.iter().map(|v| self.f.ty(*v).bytes() as u64).sum()
    }

    /// When all operands of an op are there; nothing if one of them is not even on its way.
    fn ready(&self, i: usize) -> Option<f64> {
        let operands = self.f.ops[i].operands.iter().map(|v| self.there(*v));
        let readers = self.behind.get(&i).into_iter().flatten().map(|r| self.done[*r]);
        let mut each = operands.chain(readers);
        each.try_fold(0.0, |latest, t| Some(f64::max(latest, t?)))
    }

    fn there(&self, v: ValueId) -> Option<f64> {
        if let Some((_, there)) = self.late.get(&v) {
            return *there;
        }
        match self.defs[v.index()] {
            None => Some(0.0),
            Some(d) if self.f.ops[d].kind.def().class() == Class::View => self.ready(d),
            Some(d) => self.done[d],
        }
    }

    /// The loop at `i` has run: its iterations' last collectives are still on their way.
    fn leave_on_its_way(&mut self, i: usize) {
        for v in &self.f.ops[i].results {
            let Some((late, there)) = self.late.get_mut(v) else { continue };
            let free = self.streams.entry(late.axis.clone()).or_insert(0.0);
            *free = free.max(self.now) + late.seconds;
            *there = Some(*free);
        }
    }

    /// Starts collectives whose operand is there; whether there were any. `head` is the first op that is left.
    fn start_collectives(&mut self, head: Option<usize>) -> Result<bool, PassError> {
        let f = self.f;
        let turn = head.map_or(f64::MAX, |h| self.turn[h]);
        let mut under_way: u64 = (0..f.ops.len())
            .filter(|i| Times::is_collective(&f.ops[*i]) && self.done[*i] > Some(self.now))
            .map(|i| self.bytes(i))
            .sum();
        let mut waiting: Vec<usize> = (0..f.ops.len())
            .filter(|i| Times::is_collective(&f.ops[*i]) && self.done[*i].is_none())
            .filter(|i| self.ready(*i).is_some_and(|t| t <= self.now))
            .collect();
        // Who is needed first goes first; a stable sort, so that equals keep their order.
        waiting.sort_by(|a, b| self.turn[*a].total_cmp(&self.turn[*b]));
        let mut started = false;
        for i in waiting {
            // Stages of different classes have different programs: the order in which they are written is
            // all that they have in common.
            let mut before = (0..i).filter(|j| self.between_stages(*j));
            if self.between_stages(i) && before.any(|j| self.done[j].is_none()) {
                continue;
            }
            let axis = f.ops[i].attrs.str("axis").unwrap_or_default();
            let free = self.streams.get(axis).copied().unwrap_or(0.0).max(self.now);
            // Weights are there from the start: they are gathered when it is time, with some to spare.
            let given = self.is_given(f.ops[i].operands[0]);
            // What runs next may take longer than there is to spare.
            let until = free - self.now + self.seconds[i];
            let lead = f64::max(2.0 * until, until + head.map_or(0.0, |h| self.seconds[h]));
            let early = given && self.turn[i] > turn + lead;
            let more = if self.behind.contains_key(&i) { 0 } else { self.bytes(i) };
            if early || (given && self.turn[i] > turn && under_way + more > self.ahead) {
                continue;
            }
            under_way += more;
            self.emit(i)?;
            self.done[i] = Some(free + self.seconds[i]);
            self.streams.insert(axis.to_string(), free + self.seconds[i]);
            started = true;
        }
        Ok(started)
    }

    /// Whether an op is a collective between the stages of a pipeline.
    fn between_stages(&self, i: usize) -> bool {
        let axis = self.f.ops[i].attrs.str("axis");
        Times::is_collective(&self.f.ops[i]) && matches!(axis, Some("pipe" | "ends"))
    }

    fn is_given(&self, v: ValueId) -> bool {
        match self.defs[v.index()] {
            None => true,
            Some(d) => {
                let op = &self.f.ops[d];
                op.kind.def().class() == Class::View && self.is_given(op.operands[0])
            }
        }
    }

    /// Adds an op, behind the views and waits that its operands need.
    fn emit(&mut self, i: usize) -> Result<(), PassError> {
        let f = self.f;
        let mut op = f.ops[i].clone();
        for v in &mut op.operands {
            *v = self.use_of(*v)?;
        }
        self.out.push(op);
        Ok(())
    }

    /// The value that stands for `v` where it is used now.
    fn use_of(&mut self, v: ValueId) -> Result<ValueId, PassError> {
        let Some(d) = self.defs[v.index()] else { return Ok(v) };
        let f = self.f;
        let op = &f.ops[d];
        if op.kind.def().class() == Class::View && self.done[d].is_none() {
            self.emit(d)?;
            self.done[d] = self.ready(d);
        }
        if !Times::is_collective(op) && !self.late.contains_key(&v) {
            return Ok(v);
        }
        if let Some(known) = self.waited.get(&v) {
            return Ok(*known);
        }
        // Nothing stands between: it is waited for at once.
        let last = self.out.last().filter(|last| Times::is_collective(last));
        if last.is_some_and(|last| last.results.contains(&v)) {
            self.waited.insert(v, v);
            return Ok(v);
        }
        let wait = OpKind::Wait;
        let there = self.new.add_value(f.ty(v).clone());
        self.out.push(Op {
            kind: wait,
            operands: vec![v],
            results: vec![there],
            attrs: neoxc_ir::Attrs::new(),
            loc: op.loc.clone(),
        });
        self.waited.insert(v, there);
        Ok(there)
    }

    /// Waits for what is returned, and puts the ops in place.
    fn finish(mut self) -> Result<(Function, f64), PassError> {
        let f = self.f;
        let mut end = self.now;
        for v in f.results.iter().filter(|v| !self.keeps.contains(v)) {
            end = self.there(*v).map_or(end, |t| end.max(t));
        }
        // An iteration takes as long as the collectives that it leaves to the next one.
        let mut left: HashMap<&str, f64> = HashMap::new();
        for op in f.ops.iter().filter(|op| op.results.iter().any(|r| self.keeps.contains(r))) {
            let i = self.defs[op.results[0].index()];
            *left.entry(op.attrs.str("axis").unwrap_or_default()).or_default() +=
                i.map_or(0.0, |i| self.seconds[i]);
        }
        end = left.into_values().fold(end, f64::max);
        let mut results = vec![];
        for v in &f.results {
            results.push(if self.keeps.contains(v) { *v } else { self.use_of(*v)? });
        }
        // Whatever nobody uses is not left on its way either.
        let made = f.ops.iter().flat_map(|op| op.results.iter().map(move |r| (op, *r)));
        for (op, v) in made.filter(|(_, v)| !self.keeps.contains(v)).collect::<Vec<_>>() {
            if Times::is_collective(op) || self.late.contains_key(&v) {
                self.use_of(v)?;
            }
        }
        self.new.ops = self.out;
        self.new.results = results;
        self.new.renumber();
        Ok((self.new, end))
    }
}
