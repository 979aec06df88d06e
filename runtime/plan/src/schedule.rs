//! What each pipeline stage does in which order, as text.
//!
//! ```text
//! 1*(start) 1*(enter, forward, send y) 3*(enter, forward, send y, receive dy, backward, leave) …
//! ```
//! The n-th time that a stage makes a step, it is for micro-batch n, in slot n modulo the slots.

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

/// A program that stages run in parts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// The parts are called `<prefix>_<step>`.
    pub prefix: String,
    /// Micro-batches that each stage can have under way.
    pub slots: Vec<u64>,
    /// Bytes from a slot to the next.
    pub stride: u64,
    /// Micro-batches.
    pub micro: u64,
    /// `x`, `y`, `dy`, `dx`.
    pub values: BTreeMap<String, Handed>,
    /// Each stage's steps.
    pub stages: Vec<String>,
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

/// Reads a stage's text: how often, and what.
pub fn parse_schedule(text: &str) -> Option<Vec<(u64, Vec<Move>)>> {
    let mut out = vec![];
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (times, tail) = rest.split_once("*(")?;
        let (body, tail) = tail.split_once(')')?;
        let moves = body
            .split(',')
            .map(|step| {
                let words: Vec<&str> = step.split_whitespace().collect();
                Some(match words[..] {
                    ["send", value @ ("y" | "dx")] => Move::Send(value.into()),
                    ["receive", value @ ("x" | "dy")] => Move::Receive(value.into()),
                    [name] => Move::Run(name.into()),
                    _ => return None,
                })
            })
            .collect::<Option<_>>()?;
        out.push((times.trim().parse().ok().filter(|n| *n > 0)?, moves));
        rest = tail.trim_start();
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_or_refused() {
        let got = parse_schedule("1*(start) 30*(receive x, forward, send y)").unwrap();
        assert_eq!(got[0], (1, vec![Move::Run("start".into())]));
        assert_eq!((got[1].0, &got[1].1[2]), (30, &Move::Send("y".into())));
        for bad in ["x", "2*(a", "0*(a)", "2*(send x)", "-1*(a)", "1*(a b c)", "1*()"] {
            assert_eq!(parse_schedule(bad), None, "{bad}");
        }
    }
}
