//! The schedules themselves: which turn follows which on every stage.

use super::{Block, Group, Kind, Schedule, Step, Turn};

impl Schedule {
    /// A training step of `micro` micro-batches on `stages` stages of `chunks` chunks; several chunks are
    /// for [`Kind::Interleaved`] alone.
    pub fn train(kind: Kind, stages: usize, chunks: usize, micro: usize) -> Schedule {
        let mut made = Schedule {
            stages: vec![vec![]; stages],
            slots: vec![vec![1; chunks]; stages],
            micro,
            split: kind.splits(),
        };
        for stage in 0..stages {
            let (units, slots) = match kind {
                Kind::Interleaved => made.interleaved(stage),
                _ => made.plain(kind, stage),
            };
            let once = |step| Block {
                times: 1,
                groups: vec![Group { times: 1, turns: vec![turn(step, 0)] }],
            };
            let mut blocks = vec![once(Step::Start)];
            blocks.extend(units);
            blocks.push(once(Step::Finish));
            (made.stages[stage], made.slots[stage]) = (blocks, slots);
        }
        made
    }

    /// One micro-batch forward: evaluation and generation.
    pub fn evaluate(stages: usize, chunks: usize) -> Schedule {
        let mut made = Schedule {
            stages: vec![vec![]; stages],
            slots: vec![vec![1; chunks]; stages],
            micro: 1,
            split: false,
        };
        for stage in 0..stages {
            let mut turns = vec![];
            for chunk in 0..chunks {
                turns.extend(made.forward(stage, chunk));
                if made.behind(stage, chunk).is_none() {
                    turns.push(turn(Step::Head, chunk));
                }
            }
            made.stages[stage] = vec![Block { times: 1, groups: vec![Group { times: 1, turns }] }];
        }
        made
    }

    /// One chunk: some micro-batches ahead, then one forward, one backward.
    fn plain(&self, kind: Kind, stage: usize) -> (Vec<Block>, Vec<usize>) {
        let (stages, micro) = (self.stages.len(), self.micro);
        let (forward, backward) = (self.forward(stage, 0), self.backward(stage, 0));
        let ahead = match kind {
            Kind::GPipe => micro,
            _ => (stages - 1 - stage).min(micro),
        };
        // How many micro-batches weights are behind: the later the stage, the sooner it is done with
        // everything else.
        let behind = if kind.splits() { stage.min(micro - ahead) } else { 0 };
        let weights = if kind.splits() { vec![turn(Step::Weights, 0)] } else { vec![] };
        let both = [forward.clone(), backward.clone()].concat();
        let all = [
            (ahead, forward),
            (behind, both.clone()),
            (micro - ahead - behind, [both, weights.clone()].concat()),
            (ahead, [backward, weights.clone()].concat()),
            (behind, weights),
        ];
        let some = all.into_iter().filter(|(times, _)| *times > 0);
        let groups = some.map(|(times, turns)| Group { times, turns }).collect();
        let slots = match kind {
            Kind::GPipe => micro,
            Kind::ZeroBubble => stages.min(micro),
            // What is under way, and one for what is on its way out.
            _ => (stages - stage + 1).min(stages).min(micro),
        };
        (vec![Block { times: 1, groups }], vec![slots])
    }

    /// Several chunks, gone through in groups of as many micro-batches as there are stages, backwards in
    /// the opposite order. What is ahead of the first backward pass is what keeps all stages busy until it
    /// comes.
    fn interleaved(&self, stage: usize) -> (Vec<Block>, Vec<usize>) {
        let (stages, chunks, micro) = (self.stages.len(), self.chunks(), self.micro);
        let all = chunks * micro;
        let ahead = (2 * (stages - 1 - stage) + (chunks - 1) * stages).min(all);
        let chunk = |n: usize| n / stages % chunks;
        let forward = |n: usize| self.forward(stage, chunk(n));
        let backward = |n: usize| self.backward(stage, chunks - 1 - chunk(n));
        let mut units: Vec<Vec<Turn>> = (0..ahead).map(forward).collect();
        units.extend((ahead..all).map(|n| [forward(n), backward(n - ahead)].concat()));
        units.extend((all - ahead..all).map(backward));
        // Most micro-batches that each chunk has under way.
        let (mut open, mut most) = (vec![0usize; chunks], vec![0; chunks]);
        for t in units.iter().flatten() {
            match t.step {
                Step::Enter | Step::ReceiveX => open[t.chunk] += 1,
                Step::Leave | Step::SendDx => open[t.chunk] = open[t.chunk].saturating_sub(1),
                _ => {}
            }
            most[t.chunk] = open[t.chunk].max(most[t.chunk]);
        }
        // And one for what is on its way out.
        let slots = most.into_iter().map(|n: usize| (n + 1).min(micro)).collect();
        let steady = ahead..all;
        let mut blocks = folded(&units[..steady.start], stages * chunks);
        blocks.extend(folded(&units[steady.clone()], stages * chunks));
        blocks.extend(folded(&units[steady.end..], stages * chunks));
        (blocks, slots)
    }

    /// A micro-batch through a chunk's layers.
    fn forward(&self, stage: usize, chunk: usize) -> Vec<Turn> {
        let first = self.before(stage, chunk).is_none();
        let mut turns = vec![
            if first { turn(Step::Enter, 0) } else { turn(Step::ReceiveX, chunk) },
            turn(Step::Forward, chunk),
        ];
        if self.behind(stage, chunk).is_some() {
            turns.push(turn(Step::SendY, chunk));
        }
        turns
    }

    /// And back.
    fn backward(&self, stage: usize, chunk: usize) -> Vec<Turn> {
        let last = self.behind(stage, chunk).is_none();
        let first = self.before(stage, chunk).is_none();
        vec![
            if last { turn(Step::Head, chunk) } else { turn(Step::ReceiveDy, chunk) },
            turn(Step::Backward, chunk),
            if first { turn(Step::Leave, chunk) } else { turn(Step::SendDx, chunk) },
        ]
    }
}

fn turn(step: Step, chunk: usize) -> Turn {
    Turn { step, chunk }
}

/// Units that repeat after `period` of them, as blocks: equal neighbours are one group.
fn folded(units: &[Vec<Turn>], period: usize) -> Vec<Block> {
    let groups = |units: &[Vec<Turn>]| {
        let mut out: Vec<Group> = vec![];
        for unit in units {
            match out.last_mut() {
                Some(g) if g.turns == *unit => g.times += 1,
                _ => out.push(Group { times: 1, turns: unit.clone() }),
            }
        }
        out
    };
    let times = units.len() / period;
    let (many, rest) = units.split_at(if times < 2 { 0 } else { times * period });
    let mut out = vec![];
    if !many.is_empty() {
        out.push(Block { times, groups: groups(&many[..period]) });
    }
    if !rest.is_empty() {
        out.push(Block { times: 1, groups: groups(rest) });
    }
    out
}
