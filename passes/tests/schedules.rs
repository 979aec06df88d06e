//! Schedules: those that are made are sound, and the checker judges damaged ones as an executor does
//! that tries every timing on real slots and messages.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::HashSet;

use common::Random;
use neoxc_passes::schedule_pipeline::{Block, Group, Kind, Schedule, Step, Turn, check};

/// A stage's memory.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Stage {
    at: usize,
    published: bool,
    started: bool,
    finished: bool,
    chunks: Vec<Chunk>,
}

/// What a stage has for one chunk of its layers: which micro-batch's value each slot holds.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Chunk {
    x: Vec<Option<usize>>,
    y: Vec<Option<usize>>,
    dy: Vec<Option<usize>>,
    dx: Vec<Option<usize>>,
    /// What backward left for the gradients of weights.
    left: Vec<Option<usize>>,
    /// Micro-batches of which one of the two last steps is made.
    half: Vec<usize>,
    /// Micro-batches whose x is still needed for a backward pass.
    open: Vec<usize>,
    done: Vec<usize>,
    sent: [usize; 2],
    read: [usize; 2],
}

impl Chunk {
    fn new(slots: usize) -> Chunk {
        let empty = vec![None; slots];
        Chunk {
            x: empty.clone(),
            y: empty.clone(),
            dy: empty.clone(),
            left: empty.clone(),
            dx: empty,
            ..Chunk::default()
        }
    }

    /// One of the steps that end a micro-batch is made; with `split` there are two.
    fn end(&mut self, micro: usize, split: bool) {
        if split && !self.half.contains(&micro) {
            self.half.push(micro);
            return;
        }
        self.half.retain(|m| *m != micro);
        self.open.retain(|m| *m != micro);
        self.done.push(micro);
    }
}

/// Tries every timing; true if all of them end well.
fn every_timing_ends(s: &Schedule) -> bool {
    let stages = s.stages.len();
    let lists: Vec<_> = (0..stages).map(|n| s.steps(n)).collect();
    let new = |stage: usize| Stage {
        chunks: s.slots[stage].iter().map(|n| Chunk::new(*n)).collect(),
        ..Stage::default()
    };
    let mut todo: Vec<Vec<Stage>> = vec![(0..stages).map(new).collect()];
    let mut seen = HashSet::new();
    while let Some(state) = todo.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let mut any = false;
        for n in 0..stages {
            if state[n].at == lists[n].len() {
                continue;
            }
            let mut next = state.clone();
            match go(&mut next, n, lists[n][state[n].at], s) {
                Err(()) => return false,
                Ok(false) => {
                    // Publishing may have changed the state without ending the step.
                    if next != state {
                        any = true;
                        todo.push(next);
                    }
                }
                Ok(true) => {
                    any = true;
                    next[n].at += 1;
                    next[n].published = false;
                    todo.push(next);
                }
            }
        }
        let ended = (0..stages).all(|n| {
            let whole = state[n].chunks.iter().all(|c| c.done.len() == s.micro);
            state[n].at == lists[n].len() && whole && state[n].finished
        });
        if !any && !ended {
            return false;
        }
    }
    true
}

/// One step of stage `n`: Err if it reads or destroys a wrong value, Ok(false) if it has to wait.
///
/// Layers lie along one line: chunk c of stage n is place c · stages + n of it.
fn go(all: &mut [Stage], n: usize, (turn, micro): (Turn, usize), s: &Schedule) -> Result<bool, ()> {
    let (step, c) = (turn.step, turn.chunk);
    let (stages, chunks) = (all.len(), all[n].chunks.len());
    if c >= chunks {
        return Err(());
    }
    let place = c * stages + n;
    let (first, last) = (place == 0, place + 1 == stages * chunks);
    let at = |place: usize| (place % stages, place / stages);
    let slots = s.slots[n][c];
    let slot = micro % slots;
    if micro >= s.micro || all[n].finished || (!all[n].started && step != Step::Start) {
        return Err(());
    }
    let is = |ok: bool| if ok { Ok(()) } else { Err(()) };
    let own = &mut all[n].chunks[c];
    match step {
        Step::Start => {
            is(c == 0 && !all[n].started)?;
            all[n].started = true;
        }
        Step::Enter => {
            is(first)?;
            is(!own.open.iter().any(|m| m % slots == slot))?;
            own.x[slot] = Some(micro);
            own.open.push(micro);
        }
        Step::ReceiveX | Step::ReceiveDy => {
            let down = step == Step::ReceiveX;
            is(if down { !first } else { !last })?;
            let (from, way) = if down { (at(place - 1), 0) } else { (at(place + 1), 1) };
            if down {
                is(!own.open.iter().any(|m| m % slots == slot))?;
            } else {
                // The answer to a message that was sent.
                is(own.sent[0] > micro)?;
            }
            let read = own.read[way];
            let other = &all[from.0].chunks[from.1];
            if other.sent[way] <= read {
                return Ok(false);
            }
            let there = micro % s.slots[from.0][from.1];
            let value = if down { other.y[there] } else { other.dx[there] };
            is(value == Some(micro))?;
            let own = &mut all[n].chunks[c];
            own.read[way] += 1;
            if down {
                own.x[slot] = value;
                own.open.push(micro);
            } else {
                own.dy[slot] = value;
            }
        }
        Step::Forward => {
            is(own.x[slot] == Some(micro) && own.open.contains(&micro))?;
            own.y[slot] = Some(micro);
        }
        Step::SendY | Step::SendDx => {
            let down = step == Step::SendY;
            is(if down { !last } else { !first })?;
            let value = if down { own.y[slot] } else { own.dx[slot] };
            is(value == Some(micro))?;
            let (to, way) = if down { (at(place + 1), 0) } else { (at(place - 1), 1) };
            if !all[n].published {
                all[n].published = true;
                let own = &mut all[n].chunks[c];
                own.sent[way] += 1;
                if !down {
                    own.end(micro, s.split);
                }
            }
            // The slot that the next message will be made in must have been read.
            return Ok(all[to.0].chunks[to.1].read[way] + slots > micro + 1);
        }
        Step::Head => {
            is(last && own.y[slot] == Some(micro))?;
            own.dy[slot] = Some(micro);
        }
        Step::Backward => {
            is(own.dy[slot] == Some(micro) && own.open.contains(&micro))?;
            own.dx[slot] = Some(micro);
            own.left[slot] = Some(micro);
        }
        Step::Weights => {
            is(s.split && own.left[slot] == Some(micro) && own.x[slot] == Some(micro))?;
            own.end(micro, true);
        }
        Step::Leave => {
            is(first && own.dx[slot] == Some(micro))?;
            own.end(micro, s.split);
        }
        Step::Finish => {
            is(c == 0 && all[n].chunks.iter().all(|c| c.done.len() == s.micro))?;
            all[n].finished = true;
        }
    }
    Ok(true)
}

/// Chunks and micro-batches that a kind can have on so many stages.
fn shapes(kind: Kind, stages: usize, most: usize) -> Vec<(usize, usize)> {
    match kind {
        Kind::Interleaved => {
            let micro = (1..=most.div_ceil(stages)).map(|n| n * stages);
            (2..=3).flat_map(|v| micro.clone().map(move |m| (v, m))).collect()
        }
        _ => (1..=most).map(|m| (1, m)).collect(),
    }
}

#[test]
fn every_schedule_ends_whatever_the_timing() {
    for (_, kind) in Kind::ALL {
        for stages in 2..=4 {
            for (chunks, micro) in shapes(kind, stages, 5) {
                let s = Schedule::train(kind, stages, chunks, micro);
                assert_eq!(check(&s), Ok(()), "{kind:?} {stages} {chunks} {micro}");
                if stages < 4 && stages * chunks * micro <= 24 || micro < 4 {
                    assert!(every_timing_ends(&s), "{kind:?} {stages} {chunks} {micro}");
                }
            }
        }
        let chunks = if kind == Kind::Interleaved { 4 } else { 1 };
        let big = Schedule::train(kind, 64, chunks, 512);
        assert_eq!(check(&big), Ok(()));
    }
}

/// Groups of micro-batches that are not full cannot go around.
#[test]
fn interleaving_wants_full_groups() {
    let fault = check(&Schedule::train(Kind::Interleaved, 2, 2, 3)).unwrap_err().to_string();
    assert!(fault.contains("stage") && fault.contains("micro-batch"), "{fault}");
}

/// A random change to one stage.
fn damage(s: &mut Schedule, r: &mut Random) {
    let mut pick = |n: usize| (r.next() % n.max(1) as u64) as usize;
    // Written out, so that a change hits one place.
    for n in 0..s.stages.len() {
        let group = |(x, _)| Group { times: 1, turns: vec![x] };
        let groups = s.steps(n).into_iter().map(group).collect();
        s.stages[n] = vec![Block { times: 1, groups }];
    }
    let n = pick(s.stages.len());
    let c = pick(s.slots[n].len());
    let stage = &mut s.stages[n][0].groups;
    let (a, b) = (pick(stage.len()), pick(stage.len()));
    match pick(if s.slots[n].len() > 1 { 7 } else { 6 }) {
        0 => stage.swap(a, b),
        1 => {
            let b = (a + 1).min(stage.len() - 1);
            stage.swap(a, b);
        }
        2 => {
            stage.remove(a);
        }
        3 => {
            let copy = stage[a].clone();
            stage.insert(b, copy);
        }
        4 => s.slots[n][c] = (s.slots[n][c] + pick(3)).saturating_sub(1).max(1),
        6 => stage[a].turns[0].chunk = pick(s.slots[n].len() + 1),
        _ => {
            let step = stage.remove(a);
            stage.insert(b.min(stage.len()), step);
        }
    }
}

#[test]
fn a_thousand_damaged_schedules_are_judged_as_by_trying() {
    let mut r = Random(77);
    let (mut good, mut bad) = (0, 0);
    for n in 0..1000 {
        let stages = 2 + (r.next() % 2) as usize;
        let micro = 1 + (r.next() % 3) as usize;
        let kind = Kind::ALL[(r.next() % 4) as usize].1;
        let mut s = match kind {
            Kind::Interleaved => Schedule::train(kind, 2, 2, 2 + micro / 2 * 2),
            _ => Schedule::train(kind, stages, 1, micro),
        };
        let stages = s.stages.len();
        for _ in 0..1 + r.next() % 2 {
            damage(&mut s, &mut r);
        }
        let (got, want) = (check(&s), every_timing_ends(&s));
        let texts: Vec<String> = (0..stages).map(|n| s.text(n)).collect();
        assert_eq!(got.is_ok(), want, "{n}: {got:?} {:?} slots\n{}", s.slots, texts.join("\n"));
        if want { good += 1 } else { bad += 1 }
    }
    assert!(good > 50 && bad > 300, "{good} good, {bad} bad");
}
