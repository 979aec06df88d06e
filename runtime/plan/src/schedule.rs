//! What each pipeline stage does in which order, as text.
//!
//! ```text
//! 1*(start) 1*(enter, forward, send y) 3*(enter, forward, send y, receive dy, backward, leave) …
//! 2*(receive x, forward, send y) 3*[2*(receive x 1, forward 1, …) 2*(receive x, forward, …)] …
//! ```
//! A step names the chunk of the stage's layers that it is for, unless that is chunk 0. The n-th time that
//! a stage makes a step of a chunk, it is for micro-batch n, in slot n modulo that chunk's slots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A value that stages hand to each other: where it lies in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Offset in `slots` of slot 0, bytes.
    pub offset: u64,
    /// Elements of f32.
    pub elements: u64,
}

/// Where the slots of a class of stages lie.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotPlaces {
    /// Bytes from a slot to the next.
    pub stride: u64,
    /// `x`, `y`, `dy`, `dx`.
    pub values: BTreeMap<String, Handed>,
}

/// A program that stages run in parts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// The parts are called `<prefix>_<step>`.
    pub prefix: String,
    /// For each stage and each of its chunks the micro-batches that it can have under way; a stage's slots
    /// are numbered chunk after chunk.
    pub slots: Vec<Vec<u64>>,
    /// Micro-batches.
    pub micro: u64,
    /// Where slots lie on the stages of each class.
    pub places: Vec<SlotPlaces>,
    /// Each stage's steps.
    pub stages: Vec<String>,
}

impl Schedule {
    /// Slots of a stage, of all its chunks.
    pub fn slots_of(&self, stage: usize) -> u64 {
        self.slots.get(stage).map_or(0, |n| n.iter().fold(0, |a, b| a.saturating_add(*b)))
    }

    /// Slots of the stage that has most.
    pub fn most_slots(&self) -> u64 {
        (0..self.slots.len()).map(|s| self.slots_of(s)).max().unwrap_or(0)
    }

    /// Chunks of layers on a stage.
    pub fn chunks(&self) -> usize {
        self.slots.first().map_or(1, Vec::len)
    }

    /// The stage and chunk that `chunk` of `stage` hands its value to, or takes it from: behind it
    /// (`forward`), or before it.
    pub fn neighbour(&self, stage: usize, chunk: usize, forward: bool) -> Option<(usize, usize)> {
        let last = self.stages.len().checked_sub(1)?;
        match (forward, stage) {
            (true, s) if s < last => Some((s + 1, chunk)),
            (true, _) => (chunk + 1 < self.chunks()).then_some((0, chunk + 1)),
            (false, 0) => Some((last, chunk.checked_sub(1)?)),
            (false, s) => Some((s - 1, chunk)),
        }
    }
}

/// One step of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Move {
    /// Runs the part called so.
    Run(String),
    /// Gives a value: `y` to the stage behind, `dx` to the one before.
    Send(String),
    /// Takes a value: `x` from the stage before, `dy` from the one behind.
    Receive(String),
}

impl Move {
    /// Whether the value goes from the first stage towards the last.
    pub fn is_forward(value: &str) -> bool {
        matches!(value, "x" | "y")
    }
}

/// A step, and the chunk of the stage's layers that it is for.
pub type Turn = (Move, usize);

/// Groups of turns, each made so often; the whole so often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// How often.
    pub times: u64,
    /// How often, and what.
    pub groups: Vec<(u64, Vec<Turn>)>,
}

/// Reads a stage's text.
pub fn parse_schedule(text: &str) -> Option<Vec<Round>> {
    let mut out = vec![];
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (times, tail) = rest.split_once('*')?;
        if let Some(tail) = tail.strip_prefix('[') {
            let (inside, tail) = tail.split_once(']')?;
            let mut groups = vec![];
            let mut inside = inside.trim();
            while !inside.is_empty() {
                let (times, tail) = inside.split_once('*')?;
                let (group, tail) = group(times, tail)?;
                groups.push(group);
                inside = tail;
            }
            out.push(Round { times: number(times)?, groups });
            rest = tail.trim_start();
        } else {
            let (group, tail) = group(times, tail)?;
            out.push(Round { times: 1, groups: vec![group] });
            rest = tail;
        }
    }
    Some(out)
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|n| *n > 0)
}

/// A group whose times are read already, and what follows it.
fn group<'a>(times: &str, text: &'a str) -> Option<((u64, Vec<Turn>), &'a str)> {
    let (body, tail) = text.strip_prefix('(')?.split_once(')')?;
    let turns = body.split(',').map(turn).collect::<Option<_>>()?;
    Some(((number(times)?, turns), tail.trim_start()))
}

fn turn(text: &str) -> Option<Turn> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let chunk = match words.last()?.parse::<usize>() {
        Ok(n) => {
            words.pop();
            n
        }
        Err(_) => 0,
    };
    let step = match words[..] {
        ["send", value @ ("y" | "dx")] => Move::Send(value.into()),
        ["receive", value @ ("x" | "dy")] => Move::Receive(value.into()),
        [name] => Move::Run(name.into()),
        _ => return None,
    };
    Some((step, chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_or_refused() {
        let run = |name: &str, chunk| (Move::Run(name.into()), chunk);
        let got = parse_schedule("1*(start) 30*(receive x, forward, send y)").unwrap();
        assert_eq!(got[0], Round { times: 1, groups: vec![(1, vec![run("start", 0)])] });
        assert_eq!(got[1].groups[0].0, 30);
        assert_eq!(got[1].groups[0].1[2], (Move::Send("y".into()), 0));
        let got = parse_schedule("5*[2*(forward 1, send y 1) 3*(forward)] 1*(finish)").unwrap();
        let send = (Move::Send("y".into()), 1);
        let groups = vec![(2, vec![run("forward", 1), send]), (3, vec![run("forward", 0)])];
        assert_eq!(got[0], Round { times: 5, groups });
        assert_eq!(got[1].groups, vec![(1, vec![run("finish", 0)])]);
        for bad in [
            "x",
            "2*(a",
            "0*(a)",
            "2*(send x)",
            "-1*(a)",
            "1*(a b c)",
            "1*()",
            "2*[1*(a)",
            "0*[1*(a)]",
            "2*[a]",
            "2*[2*[1*(a)]]",
            "1*(a -1)",
            "1*(1)",
            "2*1*(a)",
        ] {
            assert_eq!(parse_schedule(bad), None, "{bad}");
        }
    }
}
