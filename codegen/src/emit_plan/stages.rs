//! Programs of a pipeline's stages, and the schedules that run them.

use std::collections::BTreeMap;

use neoxc_ir::{Attrs, Dim, Function, Output, Role, keys};
use neoxc_plan::{Handed, Instr, Program, Schedule, SlotPlaces, name_of};

use super::{Emitter, bad, is_given, outputs, place_of, port};
use crate::CodegenError;

/// Programs, and schedules by the name of the whole that they make.
pub struct Staged {
    pub programs: Vec<Program>,
    pub schedules: BTreeMap<String, Schedule>,
}

/// A whole, and the prefix of its parts.
const WHOLES: [(&str, &str); 3] =
    [("train_step", "train"), ("eval_step", "eval"), ("logits", "logits")];

const STEPS: [&str; 10] = [
    "start",
    "enter",
    "forward",
    "head",
    "backward",
    "backward_last",
    "weights",
    "weights_last",
    "leave",
    "finish",
];

/// Transcribes all parts of one class of stages.
pub fn emit(e: &mut Emitter<'_>, class: usize) -> Result<Staged, CodegenError> {
    let m = e.m;
    let int = |name: &str| m.attrs.int(name).unwrap_or(1).max(1) as u64;
    let mut out = Staged { programs: vec![], schedules: BTreeMap::new() };
    for (whole, prefix) in WHOLES {
        let train = prefix == "train";
        let chunks = int(keys::CHUNKS);
        let all = m.attrs.ints(keys::SLOTS).ok_or_else(|| bad("there are no slots"))?;
        let of_chunk = |n: &i64| if train { (*n).max(1) as u64 } else { 1 };
        let by_stage: Vec<Vec<u64>> =
            all.chunks(chunks.max(1) as usize).map(|n| n.iter().map(of_chunk).collect()).collect();
        let slots = by_stage.iter().map(|n| n.iter().sum()).max().unwrap_or(1);
        let micro = if train { int(keys::MICRO) } else { 1 };
        let mut program = Program { name: name_of(whole, class), ..Program::default() };
        let mut places = SlotPlaces::default();
        let mut schedule =
            Schedule { prefix: prefix.into(), slots: by_stage, micro, ..Schedule::default() };
        for step in STEPS {
            let part = name_of(&format!("{prefix}_{step}"), class);
            let Some(f) = m.function(&part) else { continue };
            let mut vars = ["slot", "micro", "stage_chunk"].map(str::to_string).to_vec();
            let mut counts = vec![slots, micro, chunks];
            let mut body = e.body(f, &mut vars, &mut counts)?;
            for (var, count) in vars.iter().zip(&counts).rev() {
                body = vec![Instr::Loop { var: var.clone(), count: *count, reverse: false, body }];
            }
            let name = f.name.clone();
            out.programs.push(Program { name, body, ..Program::default() });
            let mut handed = vec![];
            for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
                let place = Emitter::places(attrs)?.pop().unwrap_or_default();
                e.address(&place, &vars, f.ty(*p).bytes() as u64, &counts)?;
                let name = attrs.str(keys::NAME).unwrap_or_default().to_string();
                let role = Role::of(attrs);
                if role == Some(Role::Slot) {
                    handed.push((name, place, f.ty(*p).bytes() / 4));
                } else if is_given(role) && !program.inputs.iter().any(|q| q.name == name) {
                    program.inputs.push(input(m, f, *p, attrs, &place, &name, micro)?);
                }
            }
            for (what, r) in Output::all(f).unwrap_or_default().into_iter().zip(&f.results) {
                let Output::Slot(name) = what else { continue };
                let place = place_of(f, *r).ok_or_else(|| bad("a slot has no place"))?;
                handed.push((name, place, f.ty(*r).bytes() / 4));
            }
            // The head, and what comes out of it, is on the last stage.
            program.outputs.extend(outputs(f)?);
            for (name, place, elements) in handed {
                let (offset, stride) = slot(&place)?;
                places.stride = places.stride.max(stride);
                if ["x", "y", "dy", "dx"].contains(&name.as_str()) {
                    places.values.insert(name, Handed { offset, elements: elements as u64 });
                }
            }
        }
        schedule.places.push(places);
        let key = if train { keys::SCHEDULE_TRAIN } else { keys::SCHEDULE_FORWARD };
        let texts = m.attrs.strs(key).ok_or_else(|| bad("there is no schedule"))?;
        schedule.stages = texts.into_iter().map(str::to_string).collect();
        out.schedules.insert(whole.to_string(), schedule);
        out.programs.push(program);
    }
    Ok(out)
}

/// Offset and stride of `slots+offset+slot*stride`.
fn slot(place: &str) -> Result<(u64, u64), CodegenError> {
    let wrong = || bad(format!("{place} is no slot"));
    let (offset, stride) = place
        .strip_prefix("slots+")
        .and_then(|rest| rest.split_once("+slot*"))
        .ok_or_else(wrong)?;
    Ok((offset.parse().map_err(|_| wrong())?, stride.parse().map_err(|_| wrong())?))
}

/// The port of an input: of a training step, all micro-batches of the rank.
fn input(
    m: &neoxc_ir::Module,
    f: &Function,
    p: neoxc_ir::ValueId,
    attrs: &Attrs,
    place: &str,
    name: &str,
    micro: u64,
) -> Result<neoxc_plan::Port, CodegenError> {
    let many = place.contains("+micro*");
    let base = place.split("+micro*").next().unwrap_or(place);
    let base = base.split("+stage_chunk*").next().unwrap_or(base);
    let mut ty =
        if many { f.ty(p).stacked(Dim::new("micro", micro as usize)) } else { f.ty(p).clone() };
    // The numbers of the layers, of all chunks.
    if place.contains("+stage_chunk*") {
        let chunks = m.attrs.int(keys::CHUNKS).unwrap_or(1).max(1) as usize;
        ty.dims.iter_mut().take(1).for_each(|d| d.size *= chunks);
    }
    let mut made = port(name, &ty, base, attrs)?;
    if many {
        let mesh = m.attrs.strs(keys::MESH).unwrap_or_default();
        let data = mesh.iter().any(|a| a.starts_with("data=") && *a != "data=1");
        made.axes.insert(0, if data { "data".into() } else { String::new() });
    }
    Ok(made)
}

/// Runs of layers, written `first+count`.
pub fn layers(text: &str) -> Result<Vec<(u64, u64)>, CodegenError> {
    let run = |word: &str| {
        let (first, count) = word.split_once('+')?;
        Some((first.parse().ok()?, count.parse().ok()?))
    };
    let runs = text.split_whitespace().map(run).collect::<Option<_>>();
    runs.ok_or_else(|| bad(format!("`{text}` are no layers")))
}
