//! The parts of each micro-batch come in the order in which they need each other, and none is left out.
//!
//! A stage's n-th turn of a step is for micro-batch n of its chunk (`schedule`). So a step has what it needs if those that
//! it needs were made more often than it was before. A schedule whose sends and receives match still computes something
//! else where a backward pass comes before its head, or where a send and its receive are both left out.

use std::borrow::Cow;

use crate::{Move, Plan, PlanError, Round, Schedule, name_of};

/// Steps of a micro-batch, in their order, and the numbers of those that each one needs.
const STEPS: [(&str, &[usize]); 10] = [
    ("enter", &[]),
    ("receive x", &[]),
    ("forward", &[0, 1]),
    ("send y", &[2]),
    ("head", &[2]),
    ("receive dy", &[2]),
    ("backward", &[2, 4, 5]),
    ("send dx", &[6]),
    ("weights", &[6]),
    ("leave", &[6]),
];

/// Before all micro-batches, and behind them.
const ONCE: [&str; 2] = ["start", "finish"];

/// A step as schedules name it.
fn name(step: &Move) -> Cow<'_, str> {
    match step {
        Move::Run(part) => part.into(),
        Move::Send(value) => format!("send {value}").into(),
        Move::Receive(value) => format!("receive {value}").into(),
    }
}

/// A step's number in [`STEPS`]. Schedules have millions of turns, so nothing is allocated.
fn number(step: &Move) -> Option<usize> {
    let is = |name: &str| match step {
        Move::Run(part) => name == part,
        Move::Send(value) => name.strip_prefix("send ") == Some(value),
        Move::Receive(value) => name.strip_prefix("receive ") == Some(value),
    };
    STEPS.iter().position(|(name, _)| is(name))
}

/// Checks the stages of a schedule, whose turns are `rounds` and not too many to be followed.
pub fn check(plan: &Plan, s: &Schedule, rounds: &[Vec<Round>]) -> Result<(), PlanError> {
    rounds.iter().enumerate().try_for_each(|(stage, rounds)| {
        let told = |what: String| {
            PlanError::Invalid(format!("the schedule of {}: stage {stage} {what}", s.prefix))
        };
        of_stage(plan, s, stage, rounds).map_err(told)
    })
}

/// How often a stage makes a step of a chunk.
fn wanted(plan: &Plan, s: &Schedule, step: &str, stage: usize, chunk: usize) -> u64 {
    let class = plan.class_of(stage as u64);
    let has = |part: &str| plan.program(&name_of(&format!("{}_{part}", s.prefix), class)).is_some();
    let before = s.neighbour(stage, chunk, false).is_some();
    let behind = s.neighbour(stage, chunk, true).is_some();
    let is = match step {
        "enter" | "leave" => !before && has(step),
        "head" => !behind && has(step),
        "receive x" => before,
        "send y" => behind,
        "receive dy" => behind && has("backward"),
        "send dx" => before && has("backward"),
        _ => has(step),
    };
    if is { s.micro } else { 0 }
}

fn of_stage(plan: &Plan, s: &Schedule, stage: usize, rounds: &[Round]) -> Result<(), String> {
    let class = plan.class_of(stage as u64);
    let wanted: Vec<[u64; STEPS.len()]> =
        (0..s.chunks()).map(|c| STEPS.map(|(step, _)| wanted(plan, s, step, stage, c))).collect();
    let mut made = vec![[0u64; STEPS.len()]; s.chunks()];
    let mut once = [0u64; 2];
    let mut begun = false;
    let times = rounds.iter().flat_map(|r| (0..r.times).flat_map(|_| &r.groups));
    let turns = times.flat_map(|(times, turns)| (0..*times).flat_map(move |_| turns));
    for (step, chunk) in turns {
        if once[1] > 0 {
            return Err(format!("makes `{}` behind `finish`", name(step)));
        }
        if let Some(n) = number(step) {
            let (Some(made), Some(wanted)) = (made.get_mut(*chunk), wanted.get(*chunk)) else {
                return Err(format!("has no chunk {chunk}"));
            };
            let micro = made[n];
            if let Some(need) = STEPS[n].1.iter().find(|n| wanted[**n] > 0 && made[**n] <= micro) {
                let (step, needed) = (STEPS[n].0, STEPS[*need].0);
                return Err(format!(
                    "makes `{step}` of chunk {chunk} for micro-batch {micro} before `{needed}`"
                ));
            }
            made[n] += 1;
        } else {
            let step = name(step);
            let Some(n) = ONCE.iter().position(|o| *o == step) else {
                return Err(format!("makes `{step}`, which is no step of a micro-batch"));
            };
            if n == 0 && begun {
                return Err("makes `start` behind other steps".into());
            }
            once[n] += 1;
        }
        begun = true;
    }
    let has = |step: &str| plan.program(&name_of(&format!("{}_{step}", s.prefix), class)).is_some();
    for (step, made) in ONCE.iter().zip(once) {
        let want = u64::from(has(step));
        if made != want {
            return Err(format!("makes `{step}` {made} times, not {want} times"));
        }
    }
    for (chunk, (made, wanted)) in made.iter().zip(&wanted).enumerate() {
        let all = STEPS.iter().zip(made.iter().zip(wanted));
        if let Some(((step, _), (made, want))) = all.into_iter().find(|(_, (a, b))| a != b) {
            return Err(format!("makes `{step}` of chunk {chunk} {made} times, not {want} times"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Program, parse_schedule};

    /// Two stages, which are of two classes, with so many micro-batches of one chunk.
    fn checked(micro: u64, stages: [&str; 2]) -> Result<(), String> {
        let mut plan = Plan::default();
        plan.tables.mesh = vec![("pipe".into(), 2)];
        plan.tables.stage_class = vec![0, 1];
        let parts = [
            (0, &["start", "enter", "forward", "backward", "leave", "finish"][..]),
            (1, &["start", "forward", "head", "backward", "finish"]),
        ];
        for (class, names) in parts {
            for part in names {
                let name = name_of(&format!("train_{part}"), class);
                plan.programs.push(Program { name, ..Program::default() });
            }
        }
        let s = Schedule {
            prefix: "train".into(),
            slots: vec![vec![2]; 2],
            micro,
            stages: stages.map(str::to_string).to_vec(),
            ..Schedule::default()
        };
        let rounds = stages.map(|text| parse_schedule(text).unwrap());
        check(&plan, &s, &rounds).map_err(|e| e.to_string())
    }

    const FIRST: &str = "1*(start) 1*(enter, forward, send y) 1*(enter, forward, send y, receive dy, \
                         backward, leave) 1*(receive dy, backward, leave) 1*(finish)";
    const LAST: &str = "1*(start) 2*(receive x, forward, head, backward, send dx) 1*(finish)";

    #[test]
    fn what_a_step_needs_comes_before_it() {
        assert_eq!(checked(2, [FIRST, LAST]), Ok(()));
        for (from, to, what) in [
            (
                "head, backward",
                "backward, head",
                "`backward` of chunk 0 for micro-batch 0 before `head`",
            ),
            (
                "receive x, forward",
                "forward, receive x",
                "`forward` of chunk 0 for micro-batch 0 before `receive x`",
            ),
            (
                "backward, send dx",
                "send dx, backward",
                "`send dx` of chunk 0 for micro-batch 0 before `backward`",
            ),
            ("head, ", "", "`backward` of chunk 0 for micro-batch 0 before `head`"),
            ("head, ", "head, head, ", "`head` of chunk 0 for micro-batch 1 before `forward`"),
            (", send dx", "", "`send dx` of chunk 0 0 times, not 2 times"),
            ("1*(start) ", "", "`start` 0 times, not 1 times"),
            (" 1*(finish)", "", "`finish` 0 times, not 1 times"),
            ("2*(receive", "1*(receive", "`receive x` of chunk 0 1 times, not 2 times"),
        ] {
            assert!(LAST.contains(from));
            let e = checked(2, [FIRST, &LAST.replace(from, to)]).unwrap_err();
            assert!(e.contains("stage 1 makes") && e.contains(what), "{from} → {to}: {e}");
        }
        for (from, to, what) in [
            (
                "enter, forward",
                "forward, enter",
                "`forward` of chunk 0 for micro-batch 0 before `enter`",
            ),
            (
                "backward, leave",
                "leave, backward",
                "`leave` of chunk 0 for micro-batch 0 before `backward`",
            ),
            (", leave", "", "`leave` of chunk 0 0 times"),
            ("1*(start) 1*(enter,", "1*(enter, start,", "`start` behind other steps"),
            (
                " 1*(receive dy, backward, leave) 1*(finish)",
                " 1*(finish, receive dy, backward, leave)",
                "`receive dy` behind `finish`",
            ),
        ] {
            assert!(FIRST.contains(from));
            let e = checked(2, [&FIRST.replace(from, to), LAST]).unwrap_err();
            assert!(e.contains("stage 0 makes") && e.contains(what), "{from} → {to}: {e}");
        }
        // A send and its receive, both left out.
        let [first, last] =
            [(FIRST, ", send y"), (LAST, "receive x, ")].map(|(t, p)| t.replace(p, ""));
        let e = checked(2, [&first, &last]).unwrap_err();
        assert!(e.contains("stage 0 makes `send y` of chunk 0 0 times, not 2 times"), "{e}");
    }
}
