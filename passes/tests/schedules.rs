//! Schedules: those that are made are sound, and the checker judges damaged ones as an executor does
//! that tries every timing on real slots and messages.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::HashSet;

use common::Random;
use neoxc_passes::schedule_pipeline::{Kind, Schedule, Step, check};

/// A stage's memory: which micro-batch's value each slot holds.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Stage {
    at: usize,
    published: bool,
    started: bool,
    finished: bool,
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

impl Stage {
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
    let new = |stage: usize| {
        let empty = vec![None; s.slots[stage]];
        Stage {
            x: empty.clone(),
            y: empty.clone(),
            dy: empty.clone(),
            left: empty.clone(),
            dx: empty,
            ..Stage::default()
        }
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
            let whole = state[n].done.len() == s.micro && state[n].finished;
            state[n].at == lists[n].len() && whole
        });
        if !any && !ended {
            return false;
        }
    }
    true
}

/// One step of stage `n`: Err if it reads or destroys a wrong value, Ok(false) if it has to wait.
fn go(all: &mut [Stage], n: usize, (step, micro): (Step, usize), s: &Schedule) -> Result<bool, ()> {
    let stages = all.len();
    let (first, last) = (n == 0, n + 1 == stages);
    let slots = s.slots[n];
    let slot = micro % slots;
    if micro >= s.micro || all[n].finished || (!all[n].started && step != Step::Start) {
        return Err(());
    }
    let is = |ok: bool| if ok { Ok(()) } else { Err(()) };
    let me = n;
    match step {
        Step::Start => {
            is(!all[me].started)?;
            all[me].started = true;
        }
        Step::Enter => {
            is(first)?;
            is(!all[me].open.iter().any(|m| m % slots == slot))?;
            all[me].x[slot] = Some(micro);
            all[me].open.push(micro);
        }
        Step::ReceiveX | Step::ReceiveDy => {
            let down = step == Step::ReceiveX;
            is(if down { !first } else { !last })?;
            let (from, way) = if down { (n - 1, 0) } else { (n + 1, 1) };
            if down {
                is(!all[me].open.iter().any(|m| m % slots == slot))?;
            } else {
                // The answer to a message that was sent.
                is(all[me].sent[0] > micro)?;
            }
            if all[from].sent[way] <= all[me].read[way] {
                return Ok(false);
            }
            let there = micro % s.slots[from];
            let value = if down { all[from].y[there] } else { all[from].dx[there] };
            is(value == Some(micro))?;
            all[me].read[way] += 1;
            if down {
                all[me].x[slot] = value;
                all[me].open.push(micro);
            } else {
                all[me].dy[slot] = value;
            }
        }
        Step::Forward => {
            is(all[me].x[slot] == Some(micro) && all[me].open.contains(&micro))?;
            all[me].y[slot] = Some(micro);
        }
        Step::SendY | Step::SendDx => {
            let down = step == Step::SendY;
            is(if down { !last } else { !first })?;
            let value = if down { all[me].y[slot] } else { all[me].dx[slot] };
            is(value == Some(micro))?;
            let (to, way) = if down { (n + 1, 0) } else { (n - 1, 1) };
            if !all[me].published {
                all[me].published = true;
                all[me].sent[way] += 1;
                if !down {
                    all[me].end(micro, s.split);
                }
            }
            // The slot that the next message will be made in must have been read.
            return Ok(all[to].read[way] + slots > micro + 1);
        }
        Step::Head => {
            is(last && all[me].y[slot] == Some(micro))?;
            all[me].dy[slot] = Some(micro);
        }
        Step::Backward => {
            is(all[me].dy[slot] == Some(micro) && all[me].open.contains(&micro))?;
            all[me].dx[slot] = Some(micro);
            all[me].left[slot] = Some(micro);
        }
        Step::Weights => {
            is(s.split && all[me].left[slot] == Some(micro) && all[me].x[slot] == Some(micro))?;
            all[me].end(micro, true);
        }
        Step::Leave => {
            is(first && all[me].dx[slot] == Some(micro))?;
            all[me].end(micro, s.split);
        }
        Step::Finish => {
            is(all[me].done.len() == s.micro)?;
            all[me].finished = true;
        }
    }
    Ok(true)
}

#[test]
fn every_schedule_ends_whatever_the_timing() {
    for (_, kind) in Kind::ALL {
        for stages in 2..=4 {
            for micro in 1..=5 {
                let s = Schedule::train(kind, stages, micro);
                assert_eq!(check(&s), Ok(()), "{kind:?} {stages} {micro}");
                if stages < 4 || micro < 4 {
                    assert!(every_timing_ends(&s), "{kind:?} {stages} {micro}");
                }
            }
        }
        let big = Schedule::train(kind, 64, 512);
        assert_eq!(check(&big), Ok(()));
    }
}

/// A random change to one stage.
fn damage(s: &mut Schedule, r: &mut Random) {
    let mut pick = |n: usize| (r.next() % n.max(1) as u64) as usize;
    // Written out, so that a change hits one place.
    for groups in &mut s.stages {
        let all =
            groups.iter().flat_map(|g| std::iter::repeat_n(g.steps.clone(), g.times).flatten());
        let steps: Vec<Step> = all.collect();
        *groups = steps
            .into_iter()
            .map(|x| neoxc_passes::schedule_pipeline::Group { times: 1, steps: vec![x] })
            .collect();
    }
    let n = pick(s.stages.len());
    let stage = &mut s.stages[n];
    let (a, b) = (pick(stage.len()), pick(stage.len()));
    match pick(6) {
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
        4 => s.slots[n] = (s.slots[n] + pick(3)).saturating_sub(1).max(1),
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
        let kind = Kind::ALL[(r.next() % 3) as usize].1;
        let mut s = Schedule::train(kind, stages, micro);
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
