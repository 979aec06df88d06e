//! A slot holds one micro-batch at a time: a stage that has begun with the next one in it does not come back to
//! the one before. Turns of a stage have one order, so that counting through them decides.
//!
//! What another stage takes out of a slot is waited for by the turn that gives it (`matching`).

use std::collections::HashMap;

use crate::{Instr, Move, Plan, PlanError, Round, Schedule, SegmentKind, Turn};

/// Checks the stages of a schedule, whose turns are `rounds` and not too many to be followed.
pub fn check(plan: &Plan, s: &Schedule, rounds: &[Vec<Round>]) -> Result<(), PlanError> {
    for (stage, rounds) in rounds.iter().enumerate() {
        let mut made: HashMap<&Turn, u64> = HashMap::new();
        // By part: whether it has to do with slots.
        let mut uses: HashMap<&str, bool> = HashMap::new();
        // By chunk and slot: the micro-batch that it holds.
        let mut holds: HashMap<(usize, u64), u64> = HashMap::new();
        let times = rounds.iter().flat_map(|r| (0..r.times).flat_map(|_| &r.groups));
        let turns = times.flat_map(|(times, turns)| (0..*times).flat_map(move |_| turns));
        for turn in turns {
            let (step, chunk) = turn;
            let n = made.entry(turn).or_default();
            let micro = *n;
            *n += 1;
            let used = match step {
                Move::Run(part) => *uses.entry(part).or_insert_with(|| {
                    let class = plan.class_of(stage as u64);
                    let parts = [plan.part(s, part, class), plan.last_part(s, part, class)];
                    parts.into_iter().flatten().any(|(_, body)| in_slots(plan, body))
                }),
                Move::Send(_) | Move::Receive(_) => true,
            };
            if !used {
                continue;
            }
            let slot = micro % s.slots[stage][*chunk];
            let held = holds.entry((*chunk, slot)).or_insert(micro);
            if *held > micro {
                return Err(PlanError::Invalid(format!(
                    "the schedule of {}: stage {stage} comes to {} for micro-batch {micro} when slot {slot} of \
                     chunk {chunk} holds micro-batch {held}",
                    s.prefix,
                    match step {
                        Move::Run(part) => format!("`{part}`"),
                        Move::Send(value) => format!("`send {value}`"),
                        Move::Receive(value) => format!("`receive {value}`"),
                    }
                )));
            }
            *held = micro;
        }
    }
    Ok(())
}

/// Whether any instruction has an address in the slots.
fn in_slots(plan: &Plan, body: &[Instr]) -> bool {
    let slots = plan.segment_of(SegmentKind::Slots);
    let is = |segment: usize| Some(segment) == slots;
    body.iter().any(|instr| match instr {
        Instr::Launch { args, .. } => args.iter().any(|a| is(a.segment)),
        Instr::Collective { from, to, .. } => is(from.segment) || is(to.segment),
        Instr::Loop { body, .. } => in_slots(plan, body),
        Instr::Wait { .. } => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Program, Segment, parse_program, parse_schedule};

    /// One stage with so many slots; `start` has nothing to do with them.
    fn checked(slots: u64, text: &str) -> Result<(), String> {
        let mut plan = Plan::default();
        plan.tables.segments = vec![Segment {
            name: "slots".into(),
            kind: SegmentKind::Slots,
            bytes: vec![1024],
            within: None,
        }];
        let body = "all_reduce data 1 16 1 slots+0+slot*64 slots+0+slot*64 ; -\n";
        for (name, body) in [("start", ""), ("forward", body), ("backward", body)] {
            let text = format!("loop slot 9\nloop micro 9\nloop chunk 9\n{body}end\nend\nend\n");
            let body = parse_program(&text, &["slots".to_string()], &[]).unwrap();
            plan.programs.push(Program {
                name: format!("train_{name}"),
                body,
                ..Program::default()
            });
        }
        let schedule = Schedule {
            prefix: "train".into(),
            slots: vec![vec![slots, slots]],
            ..Schedule::default()
        };
        let rounds = [parse_schedule(text).unwrap()];
        check(&plan, &schedule, &rounds).map_err(|e| e.to_string())
    }

    #[test]
    fn a_slot_is_not_taken_while_it_is_needed() {
        assert_eq!(checked(1, "4*(start) 3*(forward, backward)"), Ok(()));
        assert_eq!(checked(2, "1*(forward) 2*(forward, backward) 1*(backward)"), Ok(()));
        // Each chunk has slots of its own.
        assert_eq!(checked(1, "3*(forward, forward 1, backward 1, backward)"), Ok(()));
        let e = checked(1, "1*(start, forward) 1*(forward, backward) 1*(backward)").unwrap_err();
        assert!(e.contains("stage 0 comes to `backward` for micro-batch 0"), "{e}");
        assert!(e.contains("slot 0 of chunk 0 holds micro-batch 1"), "{e}");
        let e = checked(2, "3*[1*(forward 1) 1*(forward 1, send y 1)]").unwrap_err();
        assert!(e.contains("`send y` for micro-batch 1 when slot 1 of chunk 1"), "{e}");
    }
}
