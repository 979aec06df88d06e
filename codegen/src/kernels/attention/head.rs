//! What a task of attention's backward has of a head: all of it, or some of its keys.

use super::block::{Rows, Sizes};
use crate::emit::{Emit, Val};

/// What a task has of one head.
pub struct Head {
    /// Rows of q, k and v.
    pub inputs: [Rows; 3],
    /// Rows of the output and of its gradient.
    pub outputs: [Rows; 2],
    /// The log-sum-exp of each query.
    pub lse: Val,
    /// Rows of dq, dk and dv.
    pub results: [Rows; 3],
    /// Number of the sequence's first token.
    pub token: Val,
    /// Number of the head in its sequence.
    pub number: Val,
    /// Which of the tasks that share the head this is.
    part: Val,
    /// The first key of the task.
    pub first: Val,
}

impl Head {
    /// What task `task` has of q, k, v, out, lse and dout, and of dq, dk and dv.
    pub fn of(k: &mut Emit, s: Sizes, task: Val, inputs: [Val; 6], results: [Val; 3]) -> Head {
        let (part, head) = match s.runs.parts() {
            1 => (k.int(0), task),
            _ => {
                let all = k.int((s.batch * s.heads) as i64);
                (k.div(task, all), k.rem(task, all))
            }
        };
        let first = k.scale(part, s.runs.keys);
        let at = k.scale(head, s.seq * s.width);
        let rows = |k: &mut Emit, p| Rows { base: k.element(p, at), stride: s.width };
        let [q, key, value, out, lse, dout] = inputs;
        let inputs = [q, key, value].map(|p| rows(k, p));
        let [dq, dk, dv] = results.map(|p| rows(k, p));
        let at = k.scale(part, s.batch * s.heads * s.seq);
        let results = [dq.from(k, at), dk, dv];
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
        Head { inputs, outputs, lse, results, token, number, part, first }
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
