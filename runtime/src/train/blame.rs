//! After a step whose loss or gradient is not finite: which tensor was the first to be so. Such a step changes no
//! weights (`Ranks::guard`), so that they can be looked at and the step can be made again, and nothing is spent on
//! steps that go well.

use neoxc_plan::{Address, Instr, MAX_DEPTH, Parameter, Plan, SegmentKind, Stride, Values};

use crate::RuntimeError;
use crate::device::Found;
use crate::ranks::{Ranks, part};

/// Where a tensor is used in the model: 0 before the layers, then the layer's number from 1.
fn place(p: &Parameter, layer: u64) -> u64 {
    match p.layers {
        Some(_) => layer + 1,
        None if p.before_layers => 0,
        None => u64::MAX,
    }
}

/// Whether `rank` has a part of such values of one layer's tensor of a parameter.
fn has(plan: &Plan, rank: u64, values: &Values, p: &Parameter, layer: u64) -> bool {
    let here = plan.along("pipe", rank).1;
    p.held(values).is_some_and(|held| plan.stages_with(held).contains(&here))
        && (p.layer_axis.is_none() || plan.stage_of(p, layer).0 == here)
}

/// The first tensor with a number that is not finite on any rank: a weight, in the order of the model; or else
/// what the first launch wrote that made such a number of finite ones. If gradients and `loss` are finite, a
/// sum of squares was too large: the gradient with the largest number.
pub fn first_not_finite(plan: &Plan, ranks: &mut Ranks, loss: f32) -> Result<String, RuntimeError> {
    let mut all: Vec<(&Parameter, u64, String)> = vec![];
    for p in &plan.tables.parameters {
        all.extend(p.names().into_iter().enumerate().map(|(layer, name)| (p, layer as u64, name)));
    }
    all.sort_by_key(|(p, layer, _)| place(p, *layer));
    // The largest number of each part, infinite for what is not finite.
    let largest = |values: &Values, (p, layer, _): &(&Parameter, u64, String)| {
        let most = |rank: u64| {
            let numbers = ranks.part(rank, values, p, *layer).chunks_exact(4);
            let sizes = numbers.map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]).abs());
            sizes.fold(0f32, |a, x| if x.is_finite() { a.max(x) } else { f32::INFINITY })
        };
        // Of equal ones the first rank's.
        let own = ranks.own().into_iter().rev().filter(|r| has(plan, *r, values, p, *layer));
        let parts = own.map(|rank| (most(rank), rank));
        ranks.most(parts.max_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap_or_default())
    };
    for one in &all {
        let (size, rank) = largest(&Values::Weights, one)?;
        if size.is_infinite() {
            return Ok(format!("parameter {}{}", one.2, on(plan, rank)));
        }
    }
    let mut most = (0f32, "none".to_string());
    for one in all.iter().rev() {
        let (size, rank) = largest(&Values::Gradient, one)?;
        if size > most.0 {
            let name = format!("gradient of {}{}", one.2, on(plan, rank));
            most = (
                size,
                if size.is_finite() { format!("none, but {size:e} in the {name}") } else { name },
            );
        }
    }
    if loss.is_finite() && most.0.is_finite() {
        return Ok(most.1);
    }
    // What came out of a collective counts only where no launch has made it.
    let found = ranks.check("train_step")?.into_iter().filter_map(|(rank, f)| Some((rank, f?)));
    let said = found.map(|(rank, f)| ((f.read.is_some(), f.after, rank), told(plan, rank, &f)));
    Ok(ranks.first(said.min())?.unwrap_or(most.1))
}

/// Which rank, if there are several.
fn on(plan: &Plan, rank: u64) -> String {
    if plan.ranks() == 1 { String::new() } else { format!(", on rank {rank}") }
}

/// The instruction on line `line`, counted as `print_program` writes them, and the loops around it with their counts.
fn at_line<'p>(
    body: &'p [Instr],
    line: &mut usize,
    around: &mut Vec<(&'p str, u64)>,
) -> Option<&'p Instr> {
    for instr in body {
        *line -= 1;
        if *line == 0 {
            return Some(instr);
        }
        if let Instr::Loop { var, count, body, .. } = instr {
            around.push((var, *count));
            if let Some(found) = at_line(body, line, around) {
                return Some(found);
            }
            around.pop();
            *line -= 1;
        }
    }
    None
}

/// What lies at an address of a rank, if it is part of a parameter or of its gradient.
fn tensor_at(plan: &Plan, rank: u64, segment: usize, offset: u64) -> Option<String> {
    let (values, kind) = match plan.tables.segments.get(segment)?.kind {
        SegmentKind::Weights => (Values::Weights, ""),
        SegmentKind::Gradients => (Values::Gradient, "gradient of "),
        _ => return None,
    };
    plan.tables.parameters.iter().find_map(|p| {
        let mut names = p.names().into_iter().enumerate();
        names.find_map(|(layer, name)| {
            let (_, start, len) = part(plan, rank, &values, p, layer as u64);
            let inside = (start..start + len as u64).contains(&offset);
            (inside && has(plan, rank, &values, p, layer as u64)).then(|| format!("{kind}{name}"))
        })
    })
}

/// A launch and what it wrote, for people.
fn told(plan: &Plan, rank: u64, f: &Found) -> String {
    let program = &plan.programs[f.place.0];
    let (mut around, mut line) = (vec![], f.place.1);
    let Some(Instr::Launch { kernel, args, loc }) = at_line(&program.body, &mut line, &mut around)
    else {
        return format!("line {} of {}", f.place.1, program.name);
    };
    let k = &plan.tables.kernels[*kernel];
    let name = |a: &Address| {
        let number = |s: &Stride| f.index[if s.next { MAX_DEPTH + s.depth } else { s.depth }];
        let moved = a.strides.iter().map(|s| number(s) as u64 * s.bytes);
        tensor_at(plan, rank, a.segment, a.offset + moved.sum::<u64>())
    };
    // A stage's part of a schedule stands inside loops over slots, micro-batches and chunks of its layers.
    let staged = around.first().is_some_and(|(var, _)| *var == "slot");
    let loops = around.iter().zip(&f.index).filter_map(|((var, count), i)| match *var {
        "micro" => Some(format!("micro-batch {i}")),
        "layer" => {
            let before = if staged { f.index[2] as u64 * count } else { 0 };
            let number = plan.layers_of(rank).get(before as usize + i).copied();
            Some(format!("layer {}", number.unwrap_or(*i as u64)))
        }
        _ => None,
    });
    let loops: Vec<String> = loops.collect();
    let within = if loops.is_empty() { String::new() } else { format!(", {}", loops.join(", ")) };
    let nth = match k.args.len() - k.operands {
        1 => String::new(),
        _ => format!(" {}", f.result - k.operands + 1),
    };
    let result = name(&args[f.result]).map(|n| format!("{n}, ")).unwrap_or_default();
    let place = format!("programs/{}.txt:{}, {loc}", program.name, f.place.1);
    let reads: Vec<String> = args[..k.operands].iter().filter_map(name).collect();
    let reads = if reads.is_empty() {
        String::new()
    } else {
        format!(", which reads {}", reads.join(" and "))
    };
    let fed = f.read.map(|n| format!("; its operand {} came so out of a collective", n + 1));
    format!(
        "{result}result{nth} of `{}` ({place}{within}){reads}{}{}",
        k.name,
        on(plan, rank),
        fed.unwrap_or_default()
    )
}
