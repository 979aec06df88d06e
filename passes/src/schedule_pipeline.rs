//! Pipeline schedules as data: what every stage does, in which order.
//!
//! ```text
//! stage 0 of 2, 4 micro-batches, 1F1B:
//!   1*(start) 1*(enter, forward, send y)
//!   3*(enter, forward, send y, receive dy, backward, leave) 1*(receive dy, backward, leave) 1*(finish)
//! ```
//! A step carries no number: the n-th time a stage makes a step, it makes it for micro-batch n. Values
//! between steps lie in slots; micro-batch n uses slot n modulo their number. So a schedule's text is
//! no longer for more micro-batches, and the same for all data and tensor ranks of a stage.
//!
//! With several *chunks* a stage has layers from several places of the model: chunk c of stage s of P is
//! the (c P + s)-th part of the layers, and the last stage hands on to the first one's next chunk. A step
//! then names its chunk (`forward 1`; chunk 0 goes without saying), counts by itself, and has slots of its
//! own; what repeats in a longer rhythm stands in brackets: `5*[4*(forward, …) 4*(forward 1, …)]`.

mod build;
mod check;

pub use check::{Fault, check};

pub use crate::settings::Kind;

/// One thing that a stage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Clears the sums of a step.
    Start,
    /// Makes the first stage's input out of tokens.
    Enter,
    /// Takes the stage's input from the stage before.
    ReceiveX,
    /// Runs the stage's layers.
    Forward,
    /// Gives the stage's output to the stage behind.
    SendY,
    /// Makes loss, logits and the gradient of the last stage's output.
    Head,
    /// Takes the gradient of the stage's output from the stage behind.
    ReceiveDy,
    /// Runs the stage's layers backwards; without the gradients of weights where those are a step.
    Backward,
    /// Makes the gradients of the layers' weights, where backward does not.
    Weights,
    /// Gives the gradient of the stage's input to the stage before.
    SendDx,
    /// Makes the gradient of the embeddings.
    Leave,
    /// Reduces, clips, updates.
    Finish,
}

impl Step {
    /// Every step, in the order in which one micro-batch needs them.
    pub const ALL: [Step; 12] = [
        Step::Start,
        Step::Enter,
        Step::ReceiveX,
        Step::Forward,
        Step::SendY,
        Step::Head,
        Step::ReceiveDy,
        Step::Backward,
        Step::SendDx,
        Step::Leave,
        Step::Weights,
        Step::Finish,
    ];

    /// As schedules are written.
    pub fn name(self) -> &'static str {
        match self {
            Step::Start => "start",
            Step::Enter => "enter",
            Step::ReceiveX => "receive x",
            Step::Forward => "forward",
            Step::SendY => "send y",
            Step::Head => "head",
            Step::ReceiveDy => "receive dy",
            Step::Backward => "backward",
            Step::Weights => "weights",
            Step::SendDx => "send dx",
            Step::Leave => "leave",
            Step::Finish => "finish",
        }
    }
}

/// A step of one chunk of a stage's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Turn {
    /// What.
    pub step: Step,
    /// Which of the stage's chunks.
    pub chunk: usize,
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.chunk {
            0 => write!(f, "{}", self.step.name()),
            n => write!(f, "{} {n}", self.step.name()),
        }
    }
}

/// Turns that are made `times` times over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// How often.
    pub times: usize,
    /// What.
    pub turns: Vec<Turn>,
}

/// Groups that are made `times` times over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// How often.
    pub times: usize,
    /// What.
    pub groups: Vec<Group>,
}

/// What every stage does, and how many micro-batches a stage can have under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// By stage.
    pub stages: Vec<Vec<Block>>,
    /// Number of slots of each chunk of each stage.
    pub slots: Vec<Vec<usize>>,
    /// Number of micro-batches.
    pub micro: usize,
    /// Whether gradients of weights are a step of their own.
    pub split: bool,
}

impl Schedule {
    /// Chunks of layers that each stage has.
    pub fn chunks(&self) -> usize {
        self.slots.first().map_or(1, Vec::len)
    }

    /// The stage and chunk whose output this one's input is.
    pub fn before(&self, stage: usize, chunk: usize) -> Option<(usize, usize)> {
        match (stage.checked_sub(1), chunk.checked_sub(1)) {
            (Some(stage), _) => Some((stage, chunk)),
            (None, Some(chunk)) => Some((self.stages.len() - 1, chunk)),
            (None, None) => None,
        }
    }

    /// The stage and chunk whose input this one's output is.
    pub fn behind(&self, stage: usize, chunk: usize) -> Option<(usize, usize)> {
        if stage + 1 < self.stages.len() {
            return Some((stage + 1, chunk));
        }
        (chunk + 1 < self.chunks()).then_some((0, chunk + 1))
    }

    /// The text of one stage.
    pub fn text(&self, stage: usize) -> String {
        let group = |g: &Group| {
            let turns: Vec<String> = g.turns.iter().map(Turn::to_string).collect();
            format!("{}*({})", g.times, turns.join(", "))
        };
        let block = |b: &Block| {
            let groups = b.groups.iter().map(group).collect::<Vec<_>>().join(" ");
            if b.times == 1 { groups } else { format!("{}*[{groups}]", b.times) }
        };
        self.stages[stage].iter().map(block).collect::<Vec<_>>().join(" ")
    }

    /// Every turn of a stage with the micro-batch that it is for.
    pub fn steps(&self, stage: usize) -> Vec<(Turn, usize)> {
        let mut made = std::collections::HashMap::new();
        let mut out = vec![];
        for block in &self.stages[stage] {
            for _ in 0..block.times {
                for group in &block.groups {
                    for turn in std::iter::repeat_n(&group.turns, group.times).flatten() {
                        let n = made.entry(*turn).or_insert(0usize);
                        out.push((*turn, *n));
                        *n += 1;
                    }
                }
            }
        }
        out
    }

    /// The part of a stage's time that it waits, if forward, backward and weights take as long as each
    /// other: for reports.
    pub fn bubble(&self) -> f64 {
        let stages = self.stages.len();
        let one = 1.0 / self.chunks() as f64;
        let steps: Vec<_> = (0..stages).map(|s| self.steps(s)).collect();
        let mut done: std::collections::HashMap<(usize, Turn, usize), f64> = Default::default();
        let mut at = vec![(0usize, 0f64); stages];
        let mut moved = true;
        while moved {
            moved = false;
            for s in 0..stages {
                while let Some((turn, n)) = steps[s].get(at[s].0).copied() {
                    let from = match turn.step {
                        Step::ReceiveX => self.before(s, turn.chunk).zip(Some(Step::SendY)),
                        Step::ReceiveDy => self.behind(s, turn.chunk).zip(Some(Step::SendDx)),
                        _ => None,
                    };
                    let ready = match from {
                        Some(((stage, chunk), step)) => {
                            match done.get(&(stage, Turn { step, chunk }, n)) {
                                Some(when) => *when,
                                None => break,
                            }
                        }
                        None => 0.0,
                    };
                    let takes = match turn.step {
                        Step::Forward | Step::Weights => one,
                        Step::Backward if self.split => one,
                        Step::Backward => 2.0 * one,
                        _ => 0.0,
                    };
                    let end = ready.max(at[s].1) + takes;
                    done.insert((s, turn, n), end);
                    at[s] = (at[s].0 + 1, end);
                    moved = true;
                }
            }
        }
        let end = at.iter().map(|a| a.1).fold(0.0, f64::max);
        if end > 0.0 { 1.0 - 3.0 * self.micro as f64 / end } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_forward_one_backward_is_short() {
        let s = Schedule::train(Kind::OneForwardOneBackward, 2, 1, 4);
        assert_eq!(
            s.text(0),
            "1*(start) 1*(enter, forward, send y) 3*(enter, forward, send y, receive dy, backward, \
             leave) 1*(receive dy, backward, leave) 1*(finish)"
        );
        let long = Schedule::train(Kind::OneForwardOneBackward, 2, 1, 4000);
        assert!(long.text(0).len() < s.text(0).len() + 10);
    }

    #[test]
    fn interleaving_is_short() {
        let s = Schedule::train(Kind::Interleaved, 2, 2, 8);
        assert_eq!(
            s.text(1),
            "1*(start) 2*(receive x, forward, send y) 3*[2*(receive x 1, forward 1, head 1, backward 1, \
             send dx 1) 2*(receive x, forward, send y, receive dy, backward, send dx)] 2*(receive x 1, \
             forward 1, head 1, backward 1, send dx 1) 2*(receive dy, backward, send dx) 1*(finish)"
        );
        for stage in 0..4 {
            let short = Schedule::train(Kind::Interleaved, 4, 3, 32).text(stage);
            let long = Schedule::train(Kind::Interleaved, 4, 3, 32_000).text(stage);
            assert!(long.len() < short.len() + 20, "{short}");
        }
    }

    /// Published: (p − 1) / (m + p − 1) of the time, for both kinds.
    #[test]
    fn bubbles_are_the_published_ones() {
        for kind in [Kind::GPipe, Kind::OneForwardOneBackward] {
            for (p, m) in [(2, 1), (2, 8), (4, 4), (4, 16), (8, 3)] {
                let got = Schedule::train(kind, p, 1, m).bubble();
                let want = (p - 1) as f64 / (m + p - 1) as f64;
                assert!((got - want).abs() < 1e-9, "{kind:?} {p} {m}: {got} {want}");
            }
        }
        // ZB-H1: (p − 1) (F + B − W) instead of (p − 1) (F + B + W).
        for (p, m) in [(2, 4), (4, 8), (4, 32), (8, 16)] {
            let got = Schedule::train(Kind::ZeroBubble, p, 1, m).bubble();
            let want = (p - 1) as f64 / (3 * m + p - 1) as f64;
            assert!((got - want).abs() < 1e-9, "{p} {m}: {got} {want}");
        }
        // Interleaving: (p − 1) / v of a micro-batch's time instead of p − 1.
        for (p, v, m) in [(2, 2, 2), (2, 2, 8), (4, 2, 4), (4, 2, 16), (4, 3, 8), (8, 4, 16)] {
            let got = Schedule::train(Kind::Interleaved, p, v, m).bubble();
            let want = (p - 1) as f64 / (v * m + p - 1) as f64;
            assert!((got - want).abs() < 1e-9, "{p} {v} {m}: {got} {want}");
        }
    }
}
