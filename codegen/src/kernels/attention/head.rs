//! What a task of attention's backward has of a head of keys and values: all of it, some of its keys, or what some of the
//! heads of queries that share it add to it. Those come one after the other, so that what is summed over them has one order.

use super::block::{Rows, Sizes};
use crate::emit::{Emit, Val};

/// What a task has of one head of keys and values.
pub struct Head {
    /// Rows of k and v.
    pub inputs: [Rows; 2],
    /// Rows of dk and dv.
    pub results: [Rows; 2],
    /// Number of the head among all sequences'.
    number: Val,
    /// Pointers of q, out, lse, dout and dq.
    queries: [Val; 5],
    /// Which of the tasks that share its keys this is.
    part: Val,
    /// The first of the heads of queries that share the head, of those that the task takes.
    member: Val,
    /// The first key of the task.
    pub first: Val,
}

/// What a task has of one of the heads of queries that share its keys.
pub struct Queries {
    /// Rows of q.
    pub rows: Rows,
    /// Rows of the output and of its gradient.
    pub outputs: [Rows; 2],
    /// The log-sum-exp of each query.
    pub lse: Val,
    /// Rows of dq.
    pub result: Rows,
    /// Number of the sequence's first token.
    pub token: Val,
    /// Number of the head in its sequence.
    pub number: Val,
    /// Which of the task's heads it is, and how many of those there are.
    member: Val,
    count: Val,
}

impl Queries {
    /// Runs `body` where these are the first queries that meet their keys.
    pub fn if_first(&self, k: &mut Emit, s: Sizes, body: impl FnOnce(&mut Emit)) {
        let zero = k.int(0);
        self.if_member(k, s, zero, body);
    }

    /// Runs `body` where these are the last.
    pub fn if_last(&self, k: &mut Emit, s: Sizes, body: impl FnOnce(&mut Emit)) {
        let one = k.int(1);
        let last = k.sub(self.count, one);
        self.if_member(k, s, last, body);
    }

    fn if_member(&self, k: &mut Emit, s: Sizes, member: Val, body: impl FnOnce(&mut Emit)) {
        if s.members == 1 {
            return body(k);
        }
        let here = k.cmp("eq", self.member, member);
        k.if_(here, body);
    }
}

impl Head {
    /// What task `task` has of q, k, v, out, lse and dout, and of dq, dk and dv.
    pub fn of(k: &mut Emit, s: Sizes, task: Val, inputs: [Val; 6], results: [Val; 3]) -> Head {
        let (part, head) = match s.runs.parts() {
            1 => (k.int(0), task),
            _ => {
                let all = k.int((s.key_heads() * s.member_parts()) as i64);
                (k.div(task, all), k.rem(task, all))
            }
        };
        let (of_members, head) = match s.member_parts() {
            1 => (k.int(0), head),
            parts => {
                let parts = k.int(parts as i64);
                (k.rem(head, parts), k.div(head, parts))
            }
        };
        let member = k.scale(of_members, s.members);
        let first = k.scale(part, s.runs.keys);
        let at = k.scale(head, s.seq * s.width);
        let rows = |k: &mut Emit, p| Rows { base: k.element(p, at), stride: s.width };
        let [q, key, value, out, lse, dout] = inputs;
        let inputs = [key, value].map(|p| rows(k, p));
        let [dq, dk, dv] = results;
        let at = k.scale(of_members, s.key_heads() * s.seq);
        let results = [dk, dv].map(|p| rows(k, p).from(k, at));
        Head {
            inputs,
            results,
            number: head,
            queries: [q, out, lse, dout, dq],
            part,
            member,
            first,
        }
    }

    /// The heads of queries that share the keys, in their order.
    pub fn each_queries(&self, k: &mut Emit, s: Sizes, body: impl FnOnce(&mut Emit, Queries)) {
        let zero = k.int(0);
        let first = k.scale(self.number, s.sharing);
        let first = k.add(first, self.member);
        if s.members == 1 {
            let queries = self.queries(k, s, first, [zero; 2]);
            return body(k, queries);
        }
        let (all, most) = (k.int(s.sharing as i64), k.int(s.members as i64));
        let left = k.sub(all, self.member);
        let count = k.min(left, most);
        k.loop_(zero, count, 1, |k, member| {
            let head = k.add(first, member);
            let queries = self.queries(k, s, head, [member, count]);
            body(k, queries);
        });
    }

    /// Of head `head` of all sequences' heads of queries.
    fn queries(&self, k: &mut Emit, s: Sizes, head: Val, [member, count]: [Val; 2]) -> Queries {
        let [q, out, lse, dout, dq] = self.queries;
        let at = k.scale(head, s.seq * s.width);
        let [rows, dq] = [q, dq].map(|p| Rows { base: k.element(p, at), stride: s.width });
        let at = k.scale(self.part, s.batch * s.heads * s.seq);
        let result = dq.from(k, at);
        let heads = k.int(s.heads as i64);
        let (batch, number) = (k.div(head, heads), k.rem(head, heads));
        let row = s.heads * s.width;
        let at = k.scale(batch, s.seq * row);
        let column = k.scale(number, s.width);
        let at = k.add(at, column);
        let outputs = [out, dout].map(|p| Rows { base: k.element(p, at), stride: row });
        let at = k.scale(head, s.seq);
        let lse = k.element(lse, at);
        let token = k.scale(batch, s.seq);
        Queries { rows, outputs, lse, result, token, number, member, count }
    }

    /// The runs of the task's part: `body` gets the first key of each and the one behind its last.
    pub fn each_run(&self, k: &mut Emit, s: Sizes, body: impl FnOnce(&mut Emit, Val, Val)) {
        let (one, last) = (k.int(1), k.int(s.runs.count as i64 - 1));
        let other = k.sub(last, self.part);
        let step = k.sub(other, self.part);
        let step = k.max(step, one);
        let end = k.add(other, one);
        k.for_(self.part, end, step, &[], |k, run, _| {
            let (keys, all) = (k.int(s.runs.keys as i64), k.int(s.seq as i64));
            let first = k.scale(run, s.runs.keys);
            let end = k.add(first, keys);
            let end = k.min(end, all);
            body(k, first, end);
            vec![]
        });
    }
}
