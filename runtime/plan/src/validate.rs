//! Checks that the parts of a plan fit together before anything runs.

use crate::{Address, Instr, Plan, PlanError};

/// Bytes that all segments may have together; more is a damaged or hostile plan.
const MAX_BYTES: u64 = 1 << 46;

/// Ranks that a plan may have.
const MAX_RANKS: u64 = 1 << 20;

/// Every address of every iteration inside its segment, every kernel called as it was compiled.
pub fn validate(plan: &Plan) -> Result<(), PlanError> {
    let t = &plan.tables;
    let invalid = |m: String| Err(PlanError::Invalid(m));
    let total = t.segments.iter().try_fold(0u64, |a, s| a.checked_add(s.bytes));
    if total.is_none_or(|b| b > MAX_BYTES) {
        return invalid("segments are impossibly large".into());
    }
    let ranks = t.mesh.iter().try_fold(1u64, |a, (_, n)| a.checked_mul(*n));
    if ranks.is_none_or(|n| n == 0 || n > MAX_RANKS) {
        return invalid("the mesh has an impossible number of ranks".into());
    }
    let bytes = |name: &str| t.segments.iter().find(|s| s.name == name).map_or(0, |s| s.bytes);
    if plan.consts.len() as u64 != bytes("consts") {
        return invalid("consts.bin has another size than its segment".into());
    }
    for p in &t.parameters {
        let size = p
            .shape
            .iter()
            .chain(&p.layers)
            .try_fold(4u64, |a, s| a.checked_mul(*s))
            .filter(|s| *s > 0);
        if let Some(d) = &p.divided {
            let all = d.outer.checked_mul(d.whole).and_then(|n| n.checked_mul(d.inner));
            let whole = p.shape.iter().try_fold(1u64, |a, s| a.checked_mul(*s));
            let fits = d.ranks > 0 && d.whole.is_multiple_of(d.ranks) && all == whole;
            if !fits || plan.along(&d.axis, 0).0 != d.ranks {
                return invalid(format!("parameter {} is divided wrongly", p.name));
            }
        }
        let size = size.map(|s| s / p.divided.as_ref().map_or(1, |d| d.ranks));
        let fits = |offset: u64, segment: &str| {
            size.and_then(|s| s.checked_add(offset)).is_some_and(|e| e <= bytes(segment))
        };
        let everywhere = fits(p.offset, "params")
            && fits(p.offset, "adam_m")
            && fits(p.offset, "adam_v")
            && fits(p.grad_offset, "grads");
        if !everywhere {
            return invalid(format!("parameter {} leaves its segment", p.name));
        }
    }
    for program in &plan.programs {
        for port in program.inputs.iter().chain(&program.outputs) {
            let size = port.shape.iter().try_fold(4u64, |a, s| a.checked_mul(*s));
            let end = size.and_then(|s| s.checked_add(port.offset));
            if end.is_none_or(|e| e > bytes(&port.segment)) {
                return invalid(format!(
                    "port {} of {} leaves its segment",
                    port.name, program.name
                ));
            }
        }
        instructions(plan, &program.body, &mut vec![])?;
    }
    Ok(())
}

fn instructions(plan: &Plan, body: &[Instr], counts: &mut Vec<u64>) -> Result<(), PlanError> {
    for instr in body {
        match instr {
            Instr::Loop { count, body, .. } => {
                counts.push(*count);
                instructions(plan, body, counts)?;
                counts.pop();
            }
            Instr::AllReduce { axis, elements, from, to, .. } => {
                if !plan.tables.mesh.iter().any(|(name, _)| name == axis) {
                    return Err(PlanError::Invalid(format!("the mesh has no axis {axis}")));
                }
                for a in [from, to] {
                    let end = elements.checked_mul(4).and_then(|b| last_byte(a, b, counts));
                    let segment = plan.tables.segments.get(a.segment);
                    if end.is_none_or(|e| segment.is_none_or(|s| e > s.bytes)) {
                        return Err(PlanError::Invalid(
                            "an exchanged value leaves its segment".into(),
                        ));
                    }
                }
            }
            Instr::Launch { kernel, args, .. } => {
                let k =
                    plan.tables.kernels.get(*kernel).ok_or_else(|| {
                        PlanError::Invalid(format!("there is no kernel {kernel}"))
                    })?;
                if k.args.len() != args.len() {
                    return Err(PlanError::Invalid(format!("{} takes other arguments", k.name)));
                }
                for (a, size) in args.iter().zip(&k.args) {
                    let end = last_byte(a, *size, counts);
                    let segment = plan.tables.segments.get(a.segment);
                    if end.is_none_or(|e| segment.is_none_or(|s| e > s.bytes)) {
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

fn last_byte(a: &Address, size: u64, counts: &[u64]) -> Option<u64> {
    let mut end = a.offset.checked_add(size)?;
    for (depth, stride) in &a.strides {
        end = end.checked_add(counts.get(*depth)?.checked_sub(1)?.checked_mul(*stride)?)?;
    }
    Some(end)
}
