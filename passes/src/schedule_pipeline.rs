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

mod check;

pub use check::{Fault, check};

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

/// The order in which micro-batches go through the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// All forward, then all backward (Huang et al. 2019).
    GPipe,
    /// One forward, one backward as soon as there is one (Narayanan et al. 2019).
    #[default]
    OneForwardOneBackward,
    /// As 1F1B, with the gradients of weights later: they fill what would be idle, and no stage keeps
    /// more micro-batches than the first (ZB-H1, Qi et al. 2023).
    ZeroBubble,
}

impl Kind {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Kind); 3] = [
        ("gpipe", Kind::GPipe),
        ("1f1b", Kind::OneForwardOneBackward),
        ("zb-h1", Kind::ZeroBubble),
    ];

    /// Whether gradients of weights are a step of their own.
    pub fn splits(self) -> bool {
        self == Kind::ZeroBubble
    }

    /// The kind called `name`.
    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.iter().find(|(n, _)| *n == name).map(|(_, k)| *k)
    }
}

/// Steps that are made `times` times over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// How often.
    pub times: usize,
    /// What.
    pub steps: Vec<Step>,
}

/// What every stage does, and how many micro-batches a stage can have under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// By stage.
    pub stages: Vec<Vec<Group>>,
    /// Number of slots of each stage.
    pub slots: Vec<usize>,
    /// Number of micro-batches.
    pub micro: usize,
    /// Whether gradients of weights are a step of their own.
    pub split: bool,
}

impl Schedule {
    /// A training step of `micro` micro-batches on `stages` stages.
    pub fn train(kind: Kind, stages: usize, micro: usize) -> Schedule {
        let groups = |stage: usize| {
            let forward = forward(stage, stages);
            let backward = backward(stage, stages);
            let ahead = match kind {
                Kind::GPipe => micro,
                _ => (stages - 1 - stage).min(micro),
            };
            // How many micro-batches weights are behind: the later the stage, the sooner it is done with
            // everything else.
            let behind = if kind.splits() { stage.min(micro - ahead) } else { 0 };
            let weights = if kind.splits() { vec![Step::Weights] } else { vec![] };
            let both = [forward.clone(), backward.clone()].concat();
            let all = [
                (1, vec![Step::Start]),
                (ahead, forward),
                (behind, both.clone()),
                (micro - ahead - behind, [both, weights.clone()].concat()),
                (ahead, [backward, weights.clone()].concat()),
                (behind, weights),
                (1, vec![Step::Finish]),
            ];
            let some = all.into_iter().filter(|(times, _)| *times > 0);
            some.map(|(times, steps)| Group { times, steps }).collect()
        };
        let slots = |stage: usize| match kind {
            Kind::GPipe => micro,
            // What is under way, and one for what is on its way out.
            Kind::OneForwardOneBackward => (stages - stage + 1).min(stages).min(micro),
            Kind::ZeroBubble => stages.min(micro),
        };
        let slots = (0..stages).map(slots).collect();
        Schedule { stages: (0..stages).map(groups).collect(), slots, micro, split: kind.splits() }
    }

    /// One micro-batch forward: evaluation and generation.
    pub fn evaluate(stages: usize) -> Schedule {
        let groups = |stage: usize| {
            let mut steps = forward(stage, stages);
            if stage + 1 == stages {
                steps.push(Step::Head);
            }
            vec![Group { times: 1, steps }]
        };
        Schedule {
            stages: (0..stages).map(groups).collect(),
            slots: vec![1; stages],
            micro: 1,
            split: false,
        }
    }

    /// The text of one stage.
    pub fn text(&self, stage: usize) -> String {
        let group = |g: &Group| {
            let steps: Vec<&str> = g.steps.iter().map(|s| s.name()).collect();
            format!("{}*({})", g.times, steps.join(", "))
        };
        self.stages[stage].iter().map(group).collect::<Vec<_>>().join(" ")
    }

    /// Every step of a stage with the micro-batch that it is for.
    pub fn steps(&self, stage: usize) -> Vec<(Step, usize)> {
        let mut made = std::collections::HashMap::new();
        let groups = self.stages[stage].iter();
        groups
            .flat_map(|g| std::iter::repeat_n(&g.steps, g.times).flatten())
            .map(|step| {
                let n = made.entry(*step).or_insert(0usize);
                *n += 1;
                (*step, *n - 1)
            })
            .collect()
    }

    /// The part of a stage's time that it waits, if forward, backward and weights take as long as each
    /// other: for reports.
    pub fn bubble(&self) -> f64 {
        let stages = self.stages.len();
        let steps: Vec<_> = (0..stages).map(|s| self.steps(s)).collect();
        let mut done: Vec<std::collections::HashMap<(Step, usize), f64>> =
            vec![Default::default(); stages];
        let mut at = vec![(0usize, 0f64); stages];
        let mut moved = true;
        while moved {
            moved = false;
            for s in 0..stages {
                while let Some((step, n)) = steps[s].get(at[s].0).copied() {
                    let needs = match step {
                        Step::ReceiveX if s > 0 => done[s - 1].get(&(Step::SendY, n)),
                        Step::ReceiveDy if s + 1 < stages => done[s + 1].get(&(Step::SendDx, n)),
                        _ => Some(&0.0),
                    };
                    let Some(ready) = needs.copied() else { break };
                    let takes = match step {
                        Step::Forward => 1.0,
                        Step::Backward => {
                            if self.split {
                                1.0
                            } else {
                                2.0
                            }
                        }
                        Step::Weights => 1.0,
                        _ => 0.0,
                    };
                    let end = ready.max(at[s].1) + takes;
                    done[s].insert((step, n), end);
                    at[s] = (at[s].0 + 1, end);
                    moved = true;
                }
            }
        }
        let end = at.iter().map(|a| a.1).fold(0.0, f64::max);
        if end > 0.0 { 1.0 - 3.0 * self.micro as f64 / end } else { 0.0 }
    }
}

fn forward(stage: usize, stages: usize) -> Vec<Step> {
    let mut steps = vec![if stage == 0 { Step::Enter } else { Step::ReceiveX }, Step::Forward];
    if stage + 1 < stages {
        steps.push(Step::SendY);
    }
    steps
}

fn backward(stage: usize, stages: usize) -> Vec<Step> {
    let first = if stage + 1 == stages { Step::Head } else { Step::ReceiveDy };
    let last = if stage == 0 { Step::Leave } else { Step::SendDx };
    vec![first, Step::Backward, last]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_forward_one_backward_is_short() {
        let s = Schedule::train(Kind::OneForwardOneBackward, 2, 4);
        assert_eq!(
            s.text(0),
            "1*(start) 1*(enter, forward, send y) 3*(enter, forward, send y, receive dy, backward, \
             leave) 1*(receive dy, backward, leave) 1*(finish)"
        );
        let long = Schedule::train(Kind::OneForwardOneBackward, 2, 4000);
        assert!(long.text(0).len() < s.text(0).len() + 10);
    }

    /// Published: (p − 1) / (m + p − 1) of the time, for both kinds.
    #[test]
    fn bubbles_are_the_published_ones() {
        for kind in [Kind::GPipe, Kind::OneForwardOneBackward] {
            for (p, m) in [(2, 1), (2, 8), (4, 4), (4, 16), (8, 3)] {
                let got = Schedule::train(kind, p, m).bubble();
                let want = (p - 1) as f64 / (m + p - 1) as f64;
                assert!((got - want).abs() < 1e-9, "{kind:?} {p} {m}: {got} {want}");
            }
        }
        // ZB-H1: (p − 1) (F + B − W) instead of (p − 1) (F + B + W).
        for (p, m) in [(2, 4), (4, 8), (4, 32), (8, 16)] {
            let got = Schedule::train(Kind::ZeroBubble, p, m).bubble();
            let want = (p - 1) as f64 / (3 * m + p - 1) as f64;
            assert!((got - want).abs() < 1e-9, "{p} {m}: {got} {want}");
        }
    }
}
