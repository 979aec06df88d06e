//! Ranks that meet do so for the same collectives in the same order, and all of them come to an end.
//!
//! Ranks of one stage run the same instructions. So a group of ranks matches if its members are of one stage, and
//! groups along `pipe` match if their stages make the same sequence of collectives along it: kind, sizes, order
//! (all values are f32). The first stage and the last also meet along `ends`: for these two, both axes are one
//! sequence. Loops are not unrolled for that (`sequence`).
//!
//! Whether a pipeline ends does not depend on timing: a stage takes its turns in a fixed order and waits for
//! fixed conditions, so one run of the stages decides (the test tries every timing). A collective that is started
//! and waited for later counts where it is started: no turn ends with one under way (`events`).

use std::collections::HashMap;

use super::sequence::Sequence;
use crate::{Collective, ENDS, Instr, Move, Plan, PlanError, Round, Schedule, Turn, name_of};

/// Turns of all stages together that are followed; more is a damaged plan.
const MAX_TURNS: u64 = 1 << 24;

/// A collective in the instructions.
#[derive(Debug, Clone)]
struct Meeting {
    kind: Collective,
    shape: Vec<u64>,
    program: String,
    loc: String,
}

impl std::fmt::Display for Meeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}", self.kind.name())?;
        self.shape.iter().try_for_each(|n| write!(f, " {n}"))?;
        write!(f, "` in {} at {}", self.program, self.loc)
    }
}

impl Meeting {
    /// Differs (but for chance) where kind or sizes do.
    fn key(&self) -> u64 {
        let numbers = std::iter::once(self.kind as u64 + 1).chain(self.shape.iter().copied());
        numbers.fold(0xCBF2_9CE4_8422_2325, |h, n| {
            let mixed = (h ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed ^ (mixed >> 29)
        })
    }
}

/// Checks the stages of a schedule, whose turns are `rounds`.
pub fn check(plan: &Plan, s: &Schedule, rounds: &[Vec<Round>]) -> Result<(), PlanError> {
    last_as_others(plan, s, rounds)?;
    only_ends_along_ends(plan, s, rounds)?;
    same_collectives(plan, s, rounds)?;
    for (given, taken) in [("y", "x"), ("dx", "dy")] {
        let sizes = |name: &'static str| {
            s.places.iter().filter_map(move |p| p.values.get(name).map(|v| v.elements))
        };
        let pairs = sizes(given).flat_map(|a| sizes(taken).map(move |b| (a, b)));
        if let Some((a, b)) = pairs.into_iter().find(|(a, b)| a != b) {
            let what = format!("`send {given}` gives {a} elements, `receive {taken}` takes {b}");
            return Err(PlanError::Invalid(format!("the schedule of {}: {what}", s.prefix)));
        }
    }
    ends(plan, s, rounds)
}

/// The first rank of a stage.
fn first_rank(plan: &Plan, stage: usize) -> u64 {
    let axes = plan.tables.mesh.iter().rev();
    let faster = axes.take_while(|(name, _)| name != "pipe").map(|(_, n)| n);
    stage as u64 * faster.product::<u64>()
}

fn impossible(s: &Schedule) -> PlanError {
    PlanError::Invalid(format!("{} makes impossibly many collectives", s.prefix))
}

/// The collectives along `axis` of a list of instructions.
fn along(body: &[Instr], axis: &str, program: &str) -> Option<Sequence<Meeting>> {
    let is = |a: &str| a == axis || axis == ENDS && a == "pipe";
    let mut out = Sequence::default();
    for instr in body {
        match instr {
            Instr::Collective { kind, axis: a, shape, loc, .. }
                if is(a) && *kind != Collective::TakePart =>
            {
                let (program, loc) = (program.to_string(), loc.clone());
                let meeting = Meeting { kind: *kind, shape: shape.clone(), program, loc };
                let key = meeting.key() ^ u64::from(a == ENDS);
                out.push(meeting, key)?;
            }
            Instr::Loop { count, body, .. } => out.repeat(*count, along(body, axis, program)?)?,
            _ => {}
        }
    }
    Some(out)
}

/// The collectives along `axis` of one run of a part. What is run in its place for the last micro-batch makes the
/// same along `pipe`.
fn of_part(
    plan: &Plan,
    s: &Schedule,
    part: &str,
    axis: &str,
    class: usize,
) -> Option<Sequence<Meeting>> {
    let (_, body) = plan.part(s, part, class)?;
    along(body, axis, &name_of(&format!("{}_{part}", s.prefix), class))
}

/// The parts that stages run for the last micro-batch meet other stages as the parts that they stand for do.
fn last_as_others(plan: &Plan, s: &Schedule, rounds: &[Vec<Round>]) -> Result<(), PlanError> {
    for (stage, rounds) in rounds.iter().enumerate() {
        let class = plan.class_of(stage as u64);
        for (step, _) in rounds.iter().flat_map(|r| &r.groups).flat_map(|(_, t)| t) {
            let Move::Run(part) = step else { continue };
            let last = format!("{part}_last");
            if plan.part(s, &last, class).is_none() {
                continue;
            }
            let all = |part: &str| of_part(plan, s, part, ENDS, class).ok_or_else(|| impossible(s));
            if let Some(n) = all(part)?.first_difference(&all(&last)?) {
                return Err(PlanError::Invalid(format!(
                    "{}: collective {n} along pipe of {last} is not that of {part}",
                    s.prefix
                )));
            }
        }
    }
    Ok(())
}

/// Only the first stage and the last meet along `ends`: another one would meet nobody.
fn only_ends_along_ends(plan: &Plan, s: &Schedule, rounds: &[Vec<Round>]) -> Result<(), PlanError> {
    fn stray(body: &[Instr]) -> Option<(&Collective, &[u64], &str)> {
        body.iter().find_map(|instr| match instr {
            Instr::Collective { kind, axis, shape, loc, .. } if axis == ENDS => {
                Some((kind, &shape[..], loc.as_str()))
            }
            Instr::Loop { body, .. } => stray(body),
            _ => None,
        })
    }
    let inner = rounds.iter().enumerate().take(rounds.len().saturating_sub(1)).skip(1);
    for (stage, rounds) in inner {
        let class = plan.class_of(stage as u64);
        for (step, _) in rounds.iter().flat_map(|r| &r.groups).flat_map(|(_, t)| t) {
            let Move::Run(part) = step else { continue };
            let bodies = [plan.part(s, part, class), plan.last_part(s, part, class)];
            let found = bodies.into_iter().flatten().find_map(|(_, body)| stray(body));
            if let Some((kind, shape, loc)) = found {
                let program = name_of(&format!("{}_{part}", s.prefix), class);
                let (kind, shape) = (*kind, shape.to_vec());
                let meeting = Meeting { kind, shape, program, loc: loc.to_string() };
                return Err(PlanError::Invalid(format!(
                    "{}: rank {} makes {meeting} along ends, but stage {stage} is neither the first nor the last",
                    s.prefix,
                    first_rank(plan, stage)
                )));
            }
        }
    }
    Ok(())
}

/// Every group makes the same collectives along its axis.
fn same_collectives(plan: &Plan, s: &Schedule, rounds: &[Vec<Round>]) -> Result<(), PlanError> {
    let axes = plan.tables.mesh.iter().filter(|(_, ranks)| *ranks > 1);
    for axis in axes.map(|(axis, _)| axis.as_str()).chain([ENDS]) {
        let of_stage = |stage: usize| -> Option<Sequence<Meeting>> {
            let class = plan.class_of(stage as u64);
            let mut all = Sequence::default();
            for round in &rounds[stage] {
                let mut once = Sequence::default();
                for (times, turns) in &round.groups {
                    let mut group = Sequence::default();
                    for (step, _) in turns {
                        if let Move::Run(part) = step {
                            group.repeat(1, of_part(plan, s, part, axis, class)?)?;
                        }
                    }
                    once.repeat(*times, group)?;
                }
                all.repeat(round.times, once)?;
            }
            Some(all)
        };
        for stage in 0..rounds.len() {
            let rank = first_rank(plan, stage);
            let members = plan.group(axis, rank);
            let others = members.iter().map(|r| (r, plan.along("pipe", *r).1 as usize));
            for (other, other_stage) in others.filter(|(_, o)| *o > stage) {
                let one = of_stage(stage).ok_or_else(|| impossible(s))?;
                let two = of_stage(other_stage).ok_or_else(|| impossible(s))?;
                let Some(n) = one.first_difference(&two) else { continue };
                let what = |q: &Sequence<Meeting>| match q.get(n) {
                    Some(m) => m.to_string(),
                    None => format!("none: it makes {}", q.len()),
                };
                return Err(PlanError::Invalid(format!(
                    "{}: collective {n} along {axis} does not match: rank {rank} makes {}, rank {other} {}",
                    s.prefix,
                    what(&one),
                    what(&two)
                )));
            }
            // All pairs are equal if each is equal to the first.
            if members.len() == rounds.len() {
                break;
            }
        }
    }
    Ok(())
}

/// Where a stage stands in its turns.
#[derive(Clone)]
struct Cursor<'a> {
    rounds: &'a [Round],
    /// Round, how often it was made, group, how often it was made, turn.
    at: [usize; 5],
    /// Turns that are made.
    made: u64,
}

impl<'a> Cursor<'a> {
    fn turn(&self) -> Option<&'a Turn> {
        let [round, _, group, _, turn] = self.at;
        self.rounds.get(round)?.groups.get(group)?.1.get(turn)
    }

    fn advance(&mut self) {
        self.made += 1;
        let [round, rounds, group, groups, turn] = &mut self.at;
        let here = &self.rounds[*round];
        let (times, turns) = &here.groups[*group];
        *turn += 1;
        if *turn < turns.len() {
            return;
        }
        (*turn, *groups) = (0, *groups + 1);
        if (*groups as u64) < *times {
            return;
        }
        (*groups, *group) = (0, *group + 1);
        if *group < here.groups.len() {
            return;
        }
        (*group, *rounds) = (0, *rounds + 1);
        if *rounds as u64 == here.times {
            (*rounds, *round) = (0, *round + 1);
        }
    }
}

/// All stages while they run.
#[derive(Clone)]
struct Run<'a> {
    s: &'a Schedule,
    /// Collectives along `pipe` of each part of each stage.
    meetings: &'a [HashMap<&'a str, u64>],
    cursors: Vec<Cursor<'a>>,
    /// Collectives along `pipe` that each stage has come to.
    come: Vec<u64>,
    /// Of each stage and chunk: values given to the next one and to the one before, and how many are taken.
    given: Vec<[[u64; 2]; 2]>,
    /// Whether a stage has given the value of its turn, or at which collective of its turn it is.
    begun: Vec<u64>,
}

impl<'a> Run<'a> {
    fn value(&mut self, (stage, chunk): (usize, usize), forward: bool) -> &mut [u64; 2] {
        &mut self.given[stage * self.s.chunks() + chunk][usize::from(forward)]
    }

    /// Goes on with a stage's turn; whether anything has happened, and else the stage it waits for.
    fn go_on(&mut self, stage: usize) -> Result<(), Option<usize>> {
        let Some((step, chunk)) = self.cursors[stage].turn() else { return Err(None) };
        match step {
            Move::Run(part) => {
                let all = self.meetings[stage].get(part.as_str()).copied().unwrap_or(0);
                let begun = self.begun[stage];
                if begun > 0 {
                    let target = self.come[stage];
                    if let Some(late) = self.come.iter().position(|n| *n < target) {
                        return Err(Some(late));
                    }
                }
                if begun < all {
                    self.come[stage] += 1;
                    self.begun[stage] += 1;
                    return Ok(());
                }
            }
            Move::Send(value) => {
                let forward = Move::is_forward(value);
                let ahead = self.s.slots[stage][*chunk] - 1;
                let first = self.begun[stage] == 0;
                self.begun[stage] = 1;
                let other = self.s.neighbour(stage, *chunk, forward).map(|(s, _)| s);
                let [given, taken] = self.value((stage, *chunk), forward);
                *given += u64::from(first);
                if *taken + ahead < *given {
                    return if first { Ok(()) } else { Err(other) };
                }
            }
            Move::Receive(value) => {
                // `x` comes from the stage before, `dy` from the one behind.
                let forward = Move::is_forward(value);
                let giver = self.s.neighbour(stage, *chunk, !forward).ok_or(None)?;
                let [given, taken] = self.value(giver, forward);
                if *given == *taken {
                    return Err(Some(giver.0));
                }
                *taken += 1;
            }
        }
        self.begun[stage] = 0;
        self.cursors[stage].advance();
        Ok(())
    }
}

/// All stages come to the end of their turns.
fn ends(plan: &Plan, s: &Schedule, rounds: &[Vec<Round>]) -> Result<(), PlanError> {
    let turns = rounds.iter().flatten().try_fold(0u64, |sum, round| {
        let once = round.groups.iter().try_fold(0u64, |sum, (times, turns)| {
            sum.checked_add(times.checked_mul(turns.len() as u64)?)
        });
        sum.checked_add(round.times.checked_mul(once?)?)
    });
    let mut meetings: Vec<HashMap<&str, u64>> = vec![HashMap::new(); rounds.len()];
    for (stage, rounds) in rounds.iter().enumerate() {
        let class = plan.class_of(stage as u64);
        for (step, _) in rounds.iter().flat_map(|r| &r.groups).flat_map(|(_, t)| t) {
            if let Move::Run(part) = step
                && !meetings[stage].contains_key(part.as_str())
            {
                let all = of_part(plan, s, part, "pipe", class).ok_or_else(|| impossible(s))?;
                meetings[stage].insert(part, all.len());
            }
        }
    }
    let most = meetings.iter().flat_map(HashMap::values).copied().max().unwrap_or(0);
    if turns.and_then(|n| n.checked_mul(most.max(1))).is_none_or(|n| n > MAX_TURNS) {
        return Err(PlanError::Invalid(format!("{} makes impossibly many turns", s.prefix)));
    }
    let mut run = start(s, rounds, &meetings);
    let mut moved = true;
    while std::mem::take(&mut moved) {
        for stage in 0..rounds.len() {
            while run.go_on(stage).is_ok() {
                moved = true;
            }
        }
    }
    let Some(stuck) = (0..rounds.len()).find(|n| run.cursors[*n].turn().is_some()) else {
        return Ok(());
    };
    let standing = |run: &Run<'_>, stage: usize| match run.cursors[stage].turn() {
        None => "has ended".to_string(),
        Some((step, chunk)) => {
            let step = match step {
                Move::Run(part) => format!("{}_{part}", s.prefix),
                Move::Send(value) => format!("send {value}"),
                Move::Receive(value) => format!("receive {value}"),
            };
            let chunk = if *chunk > 0 { format!(" {chunk}") } else { String::new() };
            format!("waits in `{step}{chunk}`, turn {}", run.cursors[stage].made)
        }
    };
    let other = run.go_on(stuck).err().flatten();
    let other = match other {
        Some(o) => format!("rank {}, which {}", first_rank(plan, o), standing(&run, o)),
        None => "nobody".into(),
    };
    Err(PlanError::Invalid(format!(
        "{} never ends: rank {} {}, for {other}",
        s.prefix,
        first_rank(plan, stuck),
        standing(&run, stuck)
    )))
}

fn start<'a>(
    s: &'a Schedule,
    rounds: &'a [Vec<Round>],
    meetings: &'a [HashMap<&'a str, u64>],
) -> Run<'a> {
    let stages = rounds.len();
    let cursor = |rounds: &'a Vec<Round>| Cursor { rounds, at: [0; 5], made: 0 };
    Run {
        s,
        meetings,
        cursors: rounds.iter().map(cursor).collect(),
        come: vec![0; stages],
        given: vec![[[0; 2]; 2]; stages * s.chunks()],
        begun: vec![0; stages],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Handed, Program, SlotPlaces, parse_program, parse_schedule};

    /// Stages × two data ranks; parts by name, with their instructions.
    fn plan(parts: &[(&str, &str)], slots: &[u64], stages: &[&str]) -> Plan {
        let mut plan = Plan::default();
        plan.tables.mesh = vec![("pipe".into(), stages.len() as u64), ("data".into(), 2)];
        for (name, text) in parts {
            let text = format!("loop slot 9\nloop micro 9\nloop chunk 9\n{text}end\nend\nend\n");
            let body = parse_program(&text, &["a".to_string()], &[]).unwrap();
            let name = format!("train_{name}");
            plan.programs.push(Program { name, body, ..Program::default() });
        }
        let x = Handed { offset: 0, elements: 8 };
        let schedule = Schedule {
            prefix: "train".into(),
            slots: slots.iter().map(|n| vec![*n]).collect(),
            micro: 9,
            places: vec![SlotPlaces {
                stride: 64,
                values: ["x", "y", "dx", "dy"].map(|n| (n.to_string(), x)).into(),
            }],
            stages: stages.iter().map(|s| s.to_string()).collect(),
        };
        plan.tables.schedules.insert("train_step".into(), schedule);
        plan
    }

    fn checked(plan: &Plan) -> Result<(), String> {
        let s = &plan.tables.schedules["train_step"];
        let rounds: Vec<_> = s.stages.iter().map(|t| parse_schedule(t).unwrap()).collect();
        check(plan, s, &rounds).map_err(|e| e.to_string())
    }

    const FINISH: &str = "all_reduce pipe 1 64 1 a+0 a+0 ; x.yml:1:1
loop layer 3
start all_gather pipe 1 32 1 a+0 a+64 @0 ; x.yml:2:1
all_reduce data 1 8 1 a+0 a+0 ; x.yml:3:1
wait 0
end
";

    #[test]
    fn collectives_of_stages_match_or_are_refused_by_name() {
        let with = |other: &str| {
            let parts = [("finish", FINISH), ("other", other), ("go", "")];
            let stages = ["2*(go) 2*(finish)", "1*(go) 1*(go) 1*(other) 1*(go, other)"];
            checked(&plan(&parts, &[1, 1], &stages))
        };
        assert_eq!(with(FINISH), Ok(()));
        // Another nest of the same collectives, and other collectives along other axes.
        let unrolled = "all_reduce pipe 1 64 1 a+0 a+0 ; -
all_gather pipe 1 32 1 a+0 a+64 ; -
loop layer 2
all_gather pipe 1 32 1 a+0 a+64 ; -
end
";
        assert_eq!(with(unrolled), Ok(()));
        let changed = |from: &str, to: &str| {
            assert!(FINISH.contains(from));
            with(&FINISH.replace(from, to)).unwrap_err()
        };
        let e = changed("1 64 1", "1 32 1");
        assert!(e.contains("collective 0 along pipe"), "{e}");
        assert!(e.contains("rank 0 makes `all_reduce 1 64 1` in train_finish at x.yml:1:1"), "{e}");
        assert!(e.contains("rank 2 `all_reduce 1 32 1` in train_other at x.yml:1:1"), "{e}");
        let e = changed("all_reduce pipe 1 64 1 a+0 a+0 ; x.yml:1:1\n", "");
        assert!(e.contains("rank 2 `all_gather 1 32 1` in train_other"), "{e}");
        let e = changed("layer 3", "layer 2");
        assert!(e.contains("collective 3 along pipe"), "{e}");
        let e = changed("start all_gather", "start reduce_scatter");
        assert!(e.contains("collective 1 along pipe"), "{e}");
        // One run less of the whole.
        let parts = [("finish", FINISH)];
        let e = checked(&plan(&parts, &[1, 1], &["2*(finish)", "1*(finish)"])).unwrap_err();
        assert!(e.contains("collective 4") && e.contains("rank 2 none: it makes 4"), "{e}");
    }

    #[test]
    fn only_the_ends_meet_along_ends() {
        let ends = "loop layer 2\nall_reduce ends 1 64 1 a+0 a+0 ; x.yml:4:1\nend\n";
        let parts = [("finish", ends), ("other", ""), ("stray", ends)];
        let with = |middle| checked(&plan(&parts, &[1; 3], &["1*(finish)", middle, "1*(finish)"]));
        assert_eq!(with("1*(other)"), Ok(()));
        let e = with("1*(other, stray)").unwrap_err();
        assert!(e.contains("rank 2 makes `all_reduce 1 64 1` in train_stray at x.yml:4:1"), "{e}");
        assert!(e.contains("along ends") && e.contains("stage 1"), "{e}");
    }

    #[test]
    fn the_last_micro_batch_meets_others_as_the_rest_do() {
        let all = "all_reduce pipe 1 64 1 a+0 a+0 ; x.yml:1:1\n";
        let with = |last| {
            let parts = [("all", all), ("all_last", last)];
            checked(&plan(&parts, &[1, 1], &["9*(all)", "9*(all)"]))
        };
        assert_eq!(with(all), Ok(()));
        let e = with("").unwrap_err();
        assert!(e.contains("collective 0 along pipe of all_last is not that of all"), "{e}");
    }

    #[test]
    fn those_who_wait_for_each_other_are_named() {
        let stages = ["1*(receive dy, go, send y)", "1*(receive x, go, send dx)"];
        let e = checked(&plan(&[("go", "")], &[1, 1], &stages)).unwrap_err();
        assert!(e.contains("rank 0 waits in `receive dy`, turn 0, for rank 2"), "{e}");
        assert!(e.contains("rank 2, which waits in `receive x`"), "{e}");
        // A value given when the other side is at a collective of all: one slot is too few.
        let stages = ["1*(send y, all)", "1*(all, receive x)"];
        let parts = [("all", "all_reduce pipe 1 1 1 a+0 a+0 ; -\n")];
        let e = checked(&plan(&parts, &[1, 1], &stages)).unwrap_err();
        assert!(e.contains("rank 0 waits in `send y`") && e.contains("train_all"), "{e}");
        assert_eq!(checked(&plan(&parts, &[2, 2], &stages)), Ok(()));
        let mut sizes = plan(&parts, &[2, 2], &stages);
        let s = sizes.tables.schedules.get_mut("train_step").unwrap();
        s.places[0].values.get_mut("x").unwrap().elements = 4;
        assert!(checked(&sizes).unwrap_err().contains("`send y` gives 8 elements"));
    }

    /// Whether every order in which stages can go on comes to the end.
    fn every_timing_ends(run: &Run<'_>, seen: &mut std::collections::HashSet<Vec<u64>>) -> bool {
        let mut key: Vec<u64> = run.cursors.iter().map(|c| c.made).collect();
        key.extend(run.come.iter().chain(&run.begun).chain(run.given.iter().flatten().flatten()));
        if !seen.insert(key) {
            return true;
        }
        let next: Vec<Run<'_>> = (0..run.cursors.len())
            .filter_map(|stage| {
                let mut next = run.clone();
                next.go_on(stage).ok().map(|()| next)
            })
            .collect();
        match next.is_empty() {
            true => run.cursors.iter().all(|c| c.turn().is_none()),
            false => next.iter().all(|n| every_timing_ends(n, seen)),
        }
    }

    #[test]
    fn one_run_says_what_every_timing_does() {
        let mut state = 5u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % n
        };
        let (mut fine, mut refused) = (0, 0);
        for _ in 0..400 {
            let micro = 1 + below(3);
            // Three stages that hand on values in both directions, with some turns swapped.
            let mut lists: Vec<Vec<&str>> = vec![vec![]; 3];
            for _ in 0..micro {
                lists[0].extend(["go", "send y"]);
                lists[1].extend(["receive x", "go", "send y"]);
                lists[2].extend(["receive x", "go", "send dx"]);
            }
            for _ in 0..micro {
                lists[0].extend(["receive dy", "go"]);
                lists[1].extend(["receive dy", "go", "send dx"]);
            }
            lists.iter_mut().for_each(|l| l.push("all"));
            for _ in 0..below(5) {
                let list = &mut lists[below(3)];
                let (a, b) = (below(list.len()), below(list.len()));
                list.swap(a, b);
            }
            let texts: Vec<String> =
                lists.iter().map(|l| format!("1*({})", l.join(", "))).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let parts = [("go", ""), ("all", "loop i 2\nall_reduce pipe 1 1 1 a+0 a+0 ; -\nend\n")];
            let slots = [1 + below(3) as u64, 1 + below(3) as u64, 1 + below(3) as u64];
            let plan = plan(&parts, &slots, &texts);
            let s = &plan.tables.schedules["train_step"];
            let rounds: Vec<_> = s.stages.iter().map(|t| parse_schedule(t).unwrap()).collect();
            let meetings = vec![HashMap::from([("go", 0), ("all", 2)]); 3];
            let want = every_timing_ends(&start(s, &rounds, &meetings), &mut Default::default());
            assert_eq!(ends(&plan, s, &rounds).is_ok(), want, "{texts:?}");
            *(if want { &mut fine } else { &mut refused }) += 1;
        }
        assert!(fine > 50 && refused > 50, "{fine} {refused}");
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let parts = [("go", "all_reduce pipe 1 1 1 a+0 a+0 ; -\n")];
        for text in ["4000000000*(go)", "9000000000*[9000000000*(go)]"] {
            let e = checked(&plan(&parts, &[1, 1], &[text, text])).unwrap_err();
            assert!(e.contains("impossibly many"), "{e}");
        }
    }
}
