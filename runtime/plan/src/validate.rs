//! Checks that the parts of a plan fit together before anything runs.

mod events;
mod matching;
mod order;
mod parameters;
mod sequence;
mod slots;

use std::collections::HashMap;

use neoxc_base::entry::class_of;

use crate::{
    Address, ENDS, Instr, Move, Plan, PlanError, Port, Program, Round, Schedule, Segment,
    SegmentKind, Turn, parse_schedule,
};

/// Bytes that all segments may have together; more is a damaged or hostile plan.
const MAX_BYTES: u64 = 1 << 46;

/// What buffers are aligned to, bytes: kernels load whole vectors.
const ALIGNED: u64 = 64;

/// Ranks that a plan may have.
const MAX_RANKS: u64 = 1 << 20;

/// Every address of every iteration inside its segment, every kernel called as it was compiled.
pub fn validate(plan: &Plan) -> Result<(), PlanError> {
    let classes = classes(plan)?;
    segments(plan, classes)?;
    let t = &plan.tables;
    t.parameters.iter().try_for_each(|p| parameters::check(plan, classes, p))?;
    if plan.programs.is_empty() {
        return invalid("it has no programs");
    }
    plan.programs.iter().try_for_each(|program| ports(plan, classes, program))?;
    for program in &plan.programs {
        let (_, class) = class_of(&program.name);
        instructions(plan, class, &program.body, &mut vec![])?;
        events::check(plan, program)?;
    }
    t.schedules.values().try_for_each(|s| schedule(plan, s))
}

/// What is wrong with a plan.
fn invalid(what: impl Into<String>) -> Result<(), PlanError> {
    Err(PlanError::Invalid(what.into()))
}

/// Bytes of a segment on the stages of a class; 0 of one that the plan does not have.
fn bytes_of(plan: &Plan, name: &str, class: usize) -> u64 {
    let segment = plan.tables.segments.iter().find(|s| s.name == name);
    segment.and_then(|s| s.bytes.get(class).copied()).unwrap_or(0)
}

/// The number of classes of stages: every stage has one, every class a stage, and the mesh a possible number of ranks.
fn classes(plan: &Plan) -> Result<usize, PlanError> {
    let t = &plan.tables;
    let ranks = t.mesh.iter().try_fold(1u64, |a, (_, n)| a.checked_mul(*n));
    if ranks.is_none_or(|n| n == 0 || n > MAX_RANKS) {
        invalid("the mesh has an impossible number of ranks")?;
    }
    let stages = plan.along("pipe", 0).0;
    let classes = t.stage_class.iter().copied().max().map_or(1, |n| n.saturating_add(1));
    let known = t.stage_class.is_empty() || t.stage_class.len() as u64 == stages;
    let whole = t.segments.iter().all(|s| s.bytes.len() == classes);
    if !known || !whole || (0..classes).any(|c| !(0..stages).any(|s| plan.class_of(s) == c)) {
        invalid("the classes of stages do not fit together")?;
    }
    Ok(classes)
}

/// Segments of a possible size, of which only gradients may be a part of another one: weights and state are on loan while
/// other segments are written.
fn segments(plan: &Plan, classes: usize) -> Result<(), PlanError> {
    let all = &plan.tables.segments;
    let part = |s: &Segment| {
        let Some((at, offset)) = s.within else { return true };
        let inside = |(of, n): (&u64, &u64)| offset.checked_add(*n).is_some_and(|end| end <= *of);
        let arena = |of: &&Segment| of.kind == SegmentKind::Arena && of.within.is_none();
        let of = all.get(at).filter(arena);
        s.kind == SegmentKind::Gradients
            && of.is_some_and(|of| of.bytes.iter().zip(&s.bytes).all(inside))
    };
    if !all.iter().all(part) {
        return invalid("a part of a segment leaves it");
    }
    for class in 0..classes {
        let total = all.iter().try_fold(0u64, |a, s| a.checked_add(s.bytes[class]));
        if total.is_none_or(|b| b > MAX_BYTES) {
            return invalid("segments are impossibly large");
        }
    }
    let consts = plan.segment_of(SegmentKind::Consts).map(|n| &all[n]);
    let consts = |class: usize| consts.and_then(|s| s.bytes.get(class).copied()).unwrap_or(0);
    if (0..classes).any(|class| plan.consts.len() as u64 != consts(class)) {
        return invalid("consts.bin has another size than its segment");
    }
    Ok(())
}

/// The ports of a program, which is for a class of stages: each inside its segment, and no input over another one.
fn ports(plan: &Plan, classes: usize, program: &Program) -> Result<(), PlanError> {
    let (_, class) = class_of(&program.name);
    if class >= classes {
        return invalid(format!("{} is for no stage", program.name));
    }
    for port in program.inputs.iter().chain(&program.outputs) {
        if let Err(what) = port_fits(plan, port, bytes_of(plan, &port.segment, class)) {
            return invalid(format!("port {} of {} {what}", port.name, program.name));
        }
    }
    let mut taken: Vec<(&str, u64, u64)> = vec![];
    for port in &program.inputs {
        let end = port.offset.saturating_add(port.elements().saturating_mul(port.width()));
        let place = (port.segment.as_str(), port.offset, end);
        // One would be read as the other: a mask as ids of tokens.
        if taken.iter().any(|(at, from, to)| *at == place.0 && *from < end && port.offset < *to) {
            let what = format!("input {} of {} lies over another", port.name, program.name);
            return invalid(what);
        }
        taken.push(place);
    }
    Ok(())
}

/// Whether a port is of a known dtype, aligned, of a size that can be counted, and inside its segment of `bytes`.
fn port_fits(plan: &Plan, port: &Port, bytes: u64) -> Result<(), String> {
    if !["f32", "i32", "bf16", "f16"].contains(&port.dtype.as_str()) {
        return Err(format!("has the dtype {:?}", port.dtype));
    }
    // The whole value, of which ranks have parts.
    let whole = port.shape.iter().zip(0..).try_fold(4u64, |a, (s, i)| {
        let ranks = port.axes.get(i).map_or(1, |axis| plan.along(axis, 0).0);
        a.checked_mul(*s)?.checked_mul(ranks)
    });
    if whole.is_none_or(|n| n > MAX_BYTES) {
        return Err("is impossibly large".into());
    }
    if !port.offset.is_multiple_of(ALIGNED) {
        return Err("is not aligned".into());
    }
    let size = port.shape.iter().try_fold(port.width(), |a, s| a.checked_mul(*s));
    match size.and_then(|s| s.checked_add(port.offset)) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err("leaves its segment".into()),
    }
}

/// Every part there, run no more often than its addresses allow; every handed value inside its slots.
fn schedule(plan: &Plan, s: &Schedule) -> Result<(), PlanError> {
    let invalid = |m: String| Err(PlanError::Invalid(m));
    let stages = plan.along("pipe", 0).0;
    let chunks = s.chunks();
    let most = s.most_slots();
    let some = s.slots.iter().all(|n| n.len() == chunks && n.iter().all(|n| *n > 0));
    if !some || chunks == 0 || [s.slots.len(), s.stages.len()] != [stages as usize; 2] {
        return invalid(format!("the schedule of {} has the wrong stages", s.prefix));
    }
    let slots = plan.segment_of(SegmentKind::Slots).map(|n| &plan.tables.segments[n]);
    let classes = slots.map_or(0, |g| g.bytes.len());
    if s.places.len() != classes {
        return invalid(format!("the slots of {} are not those of the stages", s.prefix));
    }
    for (places, bytes) in s.places.iter().zip(slots.iter().flat_map(|g| &g.bytes)) {
        for (name, v) in &places.values {
            let first = v.elements.checked_mul(4).and_then(|n| n.checked_add(v.offset));
            let end = first.zip((most - 1).checked_mul(places.stride));
            if end.and_then(|(a, b)| a.checked_add(b)).is_none_or(|e| e > *bytes) {
                return invalid(format!("{name} of {} leaves its slot", s.prefix));
            }
        }
    }
    let mut rounds: Vec<Vec<Round>> = vec![];
    let mut counts: Vec<HashMap<Turn, u64>> = vec![];
    for (stage, text) in s.stages.iter().enumerate() {
        let class = plan.class_of(stage as u64);
        let Some(blocks) = parse_schedule(text) else {
            return invalid(format!("the schedule of {} cannot be read", s.prefix));
        };
        let mut made: HashMap<Turn, u64> = HashMap::new();
        for block in &blocks {
            for (times, turns) in &block.groups {
                for turn in turns {
                    let n = made.entry(turn.clone()).or_default();
                    *n = n.saturating_add(times.saturating_mul(block.times));
                }
            }
        }
        for ((step, chunk), n) in &made {
            let known = match step {
                Move::Run(part) => {
                    let fits = |([slots, micro, all], _): ([u64; 3], &[Instr])| {
                        slots >= most && micro >= *n && all as usize > *chunk
                    };
                    plan.part(s, part, class).is_some_and(fits)
                        && plan.last_part(s, part, class).is_none_or(fits)
                }
                Move::Send(v) | Move::Receive(v) => s.places[class].values.contains_key(v),
            };
            if !known || *n > s.micro || *chunk >= chunks {
                return invalid(format!("the schedule of {} does not fit its parts", s.prefix));
            }
        }
        rounds.push(blocks);
        counts.push(made);
    }
    handed_as_taken(s, &counts)?;
    matching::check(plan, s, &rounds)?;
    slots::check(plan, s, &rounds)?;
    order::check(plan, s, &rounds)
}

/// What a stage gives, another one takes, as often.
fn handed_as_taken(s: &Schedule, counts: &[HashMap<Turn, u64>]) -> Result<(), PlanError> {
    for stage in 0..counts.len() {
        for chunk in 0..s.chunks() {
            for (given, taken) in [("y", "x"), ("dx", "dy")] {
                let forward = Move::is_forward(given);
                let often = |stage: usize, step: Move, chunk: usize| {
                    counts[stage].get(&(step, chunk)).copied().unwrap_or(0)
                };
                let other = s.neighbour(stage, chunk, forward);
                let gives = often(stage, Move::Send(given.into()), chunk);
                let takes = other.map_or(0, |(s, c)| often(s, Move::Receive(taken.into()), c));
                // Nobody is before the first chunk, or behind the last one.
                let back = s.neighbour(stage, chunk, !forward);
                let stray = often(stage, Move::Receive(taken.into()), chunk);
                if gives != takes || back.is_none() && stray > 0 {
                    let who = other.map_or("nobody".to_string(), |(s, _)| format!("stage {s}"));
                    return Err(PlanError::Invalid(format!(
                        "the schedule of {}: stage {stage} makes `send {given}` of chunk {chunk} \
                         {gives} times, {who} `receive {taken}` {takes} times",
                        s.prefix
                    )));
                }
            }
        }
    }
    Ok(())
}

fn instructions(
    plan: &Plan,
    class: usize,
    body: &[Instr],
    counts: &mut Vec<u64>,
) -> Result<(), PlanError> {
    for instr in body {
        match instr {
            Instr::Loop { count, body, .. } => {
                counts.push(*count);
                instructions(plan, class, body, counts)?;
                counts.pop();
            }
            Instr::Collective { kind, axis, shape, from, to, .. } => {
                let mesh = plan.tables.mesh.iter().any(|(name, _)| name == axis);
                let ranks = (mesh || axis == ENDS)
                    .then(|| plan.along(axis, 0).0)
                    .ok_or_else(|| PlanError::Invalid(format!("the mesh has no axis {axis}")))?;
                let whole = shape.iter().try_fold(1u64, |a, s| a.checked_mul(*s));
                let whole = whole.filter(|_| kind.fits(shape, ranks));
                let (given, got) = kind.elements(whole.unwrap_or(u64::MAX), ranks);
                for (a, elements) in [(from, given), (to, got)] {
                    let end = elements.checked_mul(4).and_then(|b| last_byte(a, b, counts));
                    let segment = plan.tables.segments.get(a.segment);
                    if whole.is_none()
                        || end.is_none_or(|e| segment.is_none_or(|s| e > s.bytes[class]))
                    {
                        return Err(PlanError::Invalid(
                            "the value of a collective leaves its segment".into(),
                        ));
                    }
                }
            }
            Instr::Wait { .. } => {}
            Instr::Launch { kernel, args, .. } => {
                let k =
                    plan.tables.kernels.get(*kernel).ok_or_else(|| {
                        PlanError::Invalid(format!("there is no kernel {kernel}"))
                    })?;
                if k.args.len() != args.len() || k.operands > args.len() {
                    return Err(PlanError::Invalid(format!("{} takes other arguments", k.name)));
                }
                for (n, (a, size)) in args.iter().zip(&k.args).enumerate() {
                    let end = last_byte(a, *size, counts);
                    let segment = plan.tables.segments.get(a.segment);
                    let width = match k.dtypes.get(n).map(String::as_str) {
                        Some("f32" | "i32") => 4,
                        Some(_) => 2,
                        None => 1,
                    };
                    let whole = |bytes: u64| bytes.is_multiple_of(width);
                    if !whole(a.offset) || !a.strides.iter().all(|s| whole(s.bytes)) {
                        let what = format!("an argument of {} is not aligned", k.name);
                        return Err(PlanError::Invalid(what));
                    }
                    let numbers = n < k.operands && k.dtypes.get(n).is_some_and(|d| d == "i32");
                    if numbers
                        && segment.is_some_and(|s| s.kind == SegmentKind::Io)
                        && !is_in_a_port(plan, a, end)
                    {
                        // What is there may be no number of a row.
                        let what = format!("{} reads numbers that no input has", k.name);
                        return Err(PlanError::Invalid(what));
                    }
                    if end.is_none_or(|e| segment.is_none_or(|s| e > s.bytes[class])) {
                        return Err(PlanError::Invalid(format!(
                            "an argument of {} leaves its segment",
                            k.name
                        )));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether an operand from `a` to `end` is numbers of an input of whole numbers, of any program.
fn is_in_a_port(plan: &Plan, a: &Address, end: Option<u64>) -> bool {
    let name = plan.tables.segments.get(a.segment).map(|s| s.name.as_str());
    let ports = plan.programs.iter().flat_map(|p| &p.inputs);
    let mut ports = ports.filter(|p| p.dtype == "i32" && Some(p.segment.as_str()) == name);
    // Sizes of ports were checked before.
    ports.any(|p| {
        let past = p.offset.saturating_add(p.elements().saturating_mul(p.width()));
        p.offset <= a.offset && end.is_some_and(|e| e <= past)
    })
}

fn last_byte(a: &Address, size: u64, counts: &[u64]) -> Option<u64> {
    let mut end = a.offset.checked_add(size)?;
    for s in &a.strides {
        end = end.checked_add(counts.get(s.depth)?.checked_sub(1)?.checked_mul(s.bytes)?)?;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stride;
    use crate::{Collective, Handed, Program, SlotPlaces};

    /// Two stages × two data ranks with a collective of a value of 8 × 4 floats.
    fn staged() -> Plan {
        let a = |offset| Address {
            segment: 0,
            offset,
            strides: vec![Stride { depth: 0, bytes: 256, next: false }],
        };
        let collective = Instr::Collective {
            kind: Collective::AllGather,
            axis: "data".into(),
            shape: vec![8, 2, 2],
            from: a(0),
            to: a(64),
            event: None,
            loc: "-".into(),
        };
        let nest =
            |var: &str, body| vec![Instr::Loop { var: var.into(), count: 2, reverse: false, body }];
        let chunk = vec![Instr::Loop {
            var: "stage_chunk".into(),
            count: 1,
            reverse: false,
            body: vec![collective],
        }];
        let body = nest("slot", nest("micro", chunk));
        let part = |name: &str| Program {
            name: format!("train_{name}"),
            body: body.clone(),
            ..Program::default()
        };
        let x = Handed { offset: 0, elements: 32 };
        let schedule = Schedule {
            prefix: "train".into(),
            slots: vec![vec![2], vec![2]],
            micro: 2,
            places: vec![SlotPlaces {
                stride: 256,
                values: [("x".to_string(), x), ("y".to_string(), x)].into(),
            }],
            stages: vec!["2*(forward, send y)".into(), "2*(receive x, forward)".into()],
        };
        let mut plan = Plan { programs: vec![part("forward")], ..Plan::default() };
        plan.tables.mesh = vec![("pipe".into(), 2), ("data".into(), 2)];
        plan.tables.segments = vec![Segment {
            name: "slots".into(),
            kind: SegmentKind::Slots,
            bytes: vec![512],
            within: None,
        }];
        plan.tables.schedules = [("train_step".to_string(), schedule)].into();
        plan
    }

    #[test]
    fn schedules_that_do_not_fit_are_refused() {
        assert!(validate(&staged()).is_ok());
        let wrong = |change: &dyn Fn(&mut Schedule)| {
            let mut plan = staged();
            change(plan.tables.schedules.get_mut("train_step").expect("it was put there"));
            assert!(matches!(validate(&plan), Err(PlanError::Invalid(_))));
        };
        wrong(&|s| s.slots = vec![vec![2], vec![0]]);
        wrong(&|s| s.slots = vec![vec![2]]);
        wrong(&|s| s.slots = vec![vec![2], vec![3]]);
        wrong(&|s| s.slots = vec![vec![2], vec![1, 1]]);
        wrong(&|s| s.stages[0] = "2*(forward 1, send y)".into());
        wrong(&|s| s.stages[0] = "1*(forward, send y)".into());
        wrong(&|s| s.stages[1] = "2*(receive x, forward, send y)".into());
        wrong(&|s| s.stages[1] = "2*(receive x, forward) 1*(receive dy)".into());
        wrong(&|s| s.places[0].stride = 400);
        wrong(&|s| s.places.clear());
        wrong(&|s| s.stages.truncate(1));
        wrong(&|s| s.stages[0] = "2*(forward, send dx)".into());
        wrong(&|s| s.stages[0] = "3*(forward)".into());
        wrong(&|s| s.stages[0] = "18446744073709551615*(forward) 9*(forward)".into());
        wrong(&|s| s.stages[1] = "1*(backward)".into());
        wrong(&|s| s.stages[1] = "forward".into());
        wrong(&|s| s.prefix = "eval".into());
        let mut plan = staged();
        let mut part = plan.programs[0].clone();
        part.name = "train_finish".into();
        let mut at = &mut part.body[0];
        while let Instr::Loop { body, .. } = at {
            at = &mut body[0];
        }
        if let Instr::Collective { axis, .. } = at {
            *axis = "pipe".into();
        }
        plan.programs.push(part);
        let stages = |plan: &mut Plan, texts: [&str; 2]| {
            for s in plan.tables.schedules.values_mut() {
                s.stages = texts.map(str::to_string).to_vec();
            }
        };
        stages(&mut plan, ["2*(forward, send y) 1*(finish)", "2*(receive x, forward) 1*(finish)"]);
        assert!(validate(&plan).is_ok());
        stages(&mut plan, ["2*(forward, send y) 1*(finish)", "2*(receive x, forward)"]);
        let told = validate(&plan).expect_err("stage 1 does not come").to_string();
        assert!(told.contains("rank 0 makes") && told.contains("rank 2 none"), "{told}");
        wrong(&|s| {
            s.places[0].values.insert("x".into(), Handed { offset: 200, elements: 32 });
        });
        wrong(&|s| {
            s.places[0].values.insert("x".into(), Handed { offset: u64::MAX, elements: u64::MAX });
        });
    }

    #[test]
    fn collectives_that_do_not_fit_are_refused() {
        let wrong = |change: &dyn Fn(&mut Instr)| {
            let mut plan = staged();
            let mut at = &mut plan.programs[0].body[0];
            while let Instr::Loop { body, .. } = at {
                at = &mut body[0];
            }
            change(at);
            assert!(matches!(validate(&plan), Err(PlanError::Invalid(_))));
        };
        let with = |new: [u64; 3], name: &str| {
            let name = name.to_string();
            move |i: &mut Instr| {
                if let Instr::Collective { shape, axis, .. } = i {
                    *shape = new.to_vec();
                    axis.clone_from(&name);
                }
            }
        };
        wrong(&with([8, 2, 2], "tensor"));
        wrong(&with([8, 3, 2], "data"));
        wrong(&with([8, 2, 200], "data"));
        wrong(&with([u64::MAX, 2, 2], "data"));
        let as_kind = |new: Collective, sizes: &[u64]| {
            let sizes = sizes.to_vec();
            move |i: &mut Instr| {
                if let Instr::Collective { kind, shape, .. } = i {
                    *kind = new;
                    *shape = sizes.clone();
                }
            }
        };
        wrong(&as_kind(Collective::AllToAll, &[8, 2, 2]));
        wrong(&as_kind(Collective::AllToAll, &[8, 2, 1, 3, 1]));
        wrong(&as_kind(Collective::AllToAllBack, &[8, 3, 1, 2, 1]));
        wrong(&as_kind(Collective::AllToAllBack, &[800, 2, 1, 2, 1]));
        wrong(&as_kind(Collective::AllGather, &[8, 2, 1, 2, 1]));
    }
}
