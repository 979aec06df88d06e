//! The reference evaluator for several ranks: all run one program in step, and meet in collectives.

use crate::eval::{Tensor, run_function};
use crate::module::{Function, Module, Op};
use crate::op::{Class, EvalCx, OpError, OpKind, RuleCx};
use crate::ops::{decomposed, repeat};
use crate::types::TensorType;

/// Ranks along each axis, from the slowest to the fastest in the numbering of ranks.
pub type Axes = [(String, usize)];

/// Ranks that differ from `rank` only along `axis`, in order; `rank` alone if there is no such axis.
pub fn group(axes: &Axes, rank: usize, axis: &str) -> Vec<usize> {
    let mut stride = 1;
    for (name, size) in axes.iter().rev() {
        if name == axis {
            let first = rank - rank / stride % size * stride;
            return (0..*size).map(|i| first + i * stride).collect();
        }
        stride *= size;
    }
    vec![rank]
}

/// Runs the function called `name` on every rank; `inputs` and the result by rank.
pub fn run_ranks(
    module: &Module,
    name: &str,
    axes: &Axes,
    inputs: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, OpError> {
    let f = module
        .function(name)
        .ok_or_else(|| OpError::new(format!("no function is called @{name}")))?;
    run_function_ranks(module, f, axes, inputs)
}

fn run_function_ranks(
    module: &Module,
    f: &Function,
    axes: &Axes,
    inputs: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, OpError> {
    if !collectives(module, f) {
        return inputs.iter().map(|x| run_function(module, f, x)).collect();
    }
    let mut env: Vec<Vec<Option<Tensor>>> = vec![vec![None; f.values.len()]; inputs.len()];
    for (env, x) in env.iter_mut().zip(inputs) {
        if x.len() != f.params.len() {
            return Err(OpError::new(format!("@{} takes {} values", f.name, f.params.len())));
        }
        for (p, t) in f.params.iter().zip(x) {
            env[p.index()] = Some(t.clone());
        }
    }
    let lost = || OpError::new("value used before it is defined");
    for op in &f.ops {
        let operands: Vec<Vec<Tensor>> = env
            .iter()
            .map(|e| op.operands.iter().map(|o| e[o.index()].clone().ok_or_else(lost)).collect())
            .collect::<Result<_, _>>()?;
        let results = step(module, f, op, axes, &operands)?;
        for (env, results) in env.iter_mut().zip(results) {
            for (r, t) in op.results.iter().zip(results) {
                env[r.index()] = Some(t.rounded());
            }
        }
    }
    env.iter()
        .map(|e| f.results.iter().map(|r| e[r.index()].clone().ok_or_else(lost)).collect())
        .collect()
}

/// The axis of the first and the last rank along the first axis.
const ENDS: &str = "ends";

/// Runs a program of its own on the ranks of each place along the first axis (pipeline stages); `names` by
/// place, `inputs` and the result by rank. Where they meet, which is in all-reduces over that axis or over
/// its ends, every one of them must come.
pub fn run_stages(
    module: &Module,
    names: &[String],
    axes: &Axes,
    inputs: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, OpError> {
    let ((pipe, stages), inner) =
        axes.split_first().ok_or_else(|| OpError::new("there are no stages"))?;
    let each = inputs.len() / stages;
    let lost = || OpError::new("value used before it is defined");
    let get = |env: &[Option<Tensor>], v: crate::ValueId| env[v.index()].clone().ok_or_else(lost);
    let mut functions = vec![];
    let mut envs: Vec<Vec<Option<Tensor>>> = vec![];
    for (stage, name) in names.iter().enumerate() {
        let f = module.function(name);
        let f = f.ok_or_else(|| OpError::new(format!("no function is called @{name}")))?;
        for x in &inputs[stage * each..(stage + 1) * each] {
            let mut env = vec![None; f.values.len()];
            f.params.iter().zip(x).for_each(|(p, t)| env[p.index()] = Some(t.clone()));
            envs.push(env);
        }
        functions.push(f);
    }
    let meets = |op: &Op| {
        let axis = op.attrs.str("axis").filter(|_| op.kind.def().class() == Class::Collective)?;
        (axis == pipe || axis == ENDS).then(|| axis.to_string())
    };
    let mut at = vec![0; *stages];
    loop {
        for (stage, f) in functions.iter().enumerate() {
            let ranks = stage * each..(stage + 1) * each;
            while let Some(op) = f.ops.get(at[stage]).filter(|op| meets(op).is_none()) {
                let operands: Vec<Vec<Tensor>> = envs[ranks.clone()]
                    .iter()
                    .map(|e| op.operands.iter().map(|o| get(e, *o)).collect())
                    .collect::<Result<_, _>>()?;
                let results = step(module, f, op, inner, &operands)?;
                for (env, results) in envs[ranks.clone()].iter_mut().zip(results) {
                    op.results
                        .iter()
                        .zip(results)
                        .for_each(|(r, t)| env[r.index()] = Some(t.rounded()));
                }
                at[stage] += 1;
            }
        }
        let next: Vec<Option<&Op>> =
            functions.iter().zip(&at).map(|(f, n)| f.ops.get(*n)).collect();
        if next.iter().all(Option::is_none) {
            break;
        }
        let here = |stage: &usize| next[*stage].and_then(meets);
        // The ends may meet while the others wait for them.
        let members: Vec<usize> = match here(&0).as_deref() == Some(ENDS) {
            true => vec![0, stages - 1],
            false => (0..*stages).collect(),
        };
        let axis = here(&members[0]);
        if axis.is_none() || members.iter().any(|s| here(s) != axis) {
            return Err(OpError::new("not every stage comes to a collective"));
        }
        for rank in 0..each {
            let mut sum: Option<Tensor> = None;
            for stage in &members {
                let op = next[*stage].filter(|op| op.kind == OpKind::AllReduce).ok_or_else(lost)?;
                let x = get(&envs[stage * each + rank], op.operands[0])?;
                match &mut sum {
                    Some(sum) => sum.data.iter_mut().zip(&x.data).for_each(|(s, x)| *s += x),
                    None => sum = Some(x),
                }
            }
            for stage in &members {
                let op = next[*stage].ok_or_else(lost)?;
                envs[stage * each + rank][op.results[0].index()] = sum.clone().map(Tensor::rounded);
            }
        }
        members.iter().for_each(|stage| at[*stage] += 1);
    }
    let results = |(rank, env): (usize, &Vec<Option<Tensor>>)| {
        functions[rank / each].results.iter().map(|r| get(env, *r)).collect()
    };
    envs.iter().enumerate().map(results).collect()
}

fn collectives(module: &Module, f: &Function) -> bool {
    f.ops.iter().any(|op| match op.attrs.symbol("callee").and_then(|c| module.function(c)) {
        Some(g) => collectives(module, g),
        // A composite that meets other ranks names their axis, as every collective does.
        None => op.attrs.get("axis").is_some(),
    })
}

fn step(
    module: &Module,
    f: &Function,
    op: &Op,
    axes: &Axes,
    operands: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, OpError> {
    let types: Vec<TensorType> = op.operands.iter().map(|o| f.ty(*o).clone()).collect();
    let results: Vec<TensorType> = op.results.iter().map(|r| f.ty(*r).clone()).collect();
    let rule =
        RuleCx { operands: &types, results: &results, attrs: &op.attrs, module: Some(module) };
    let callee = op.attrs.symbol("callee").and_then(|c| module.function(c));
    if let Some(g) = callee.filter(|g| collectives(module, g)) {
        return match op.kind == OpKind::Repeat {
            true => repeat_ranks(module, &rule, g, axes, operands),
            false => run_ranks(module, &g.name, axes, operands),
        };
    }
    if op.kind.def().class() != Class::Collective && op.attrs.get("axis").is_some() {
        let g = decomposed::function(op.kind.def(), &rule)?;
        return run_function_ranks(module, &g, axes, operands);
    }
    if op.kind.def().class() != Class::Collective {
        return operands
            .iter()
            .map(|x| {
                let x: Vec<&Tensor> = x.iter().collect();
                op.kind.def().evaluate(&EvalCx { operands: &x, rule })
            })
            .collect();
    }
    let axis = rule.str("axis")?;
    let value = |rank: usize| &operands[rank][0];
    (0..operands.len())
        .map(|rank| {
            let members = group(axes, rank, axis);
            let place = members.iter().position(|r| *r == rank).unwrap_or(0);
            let sum = || {
                let mut sum = Tensor::fill(value(rank).ty.clone(), 0.0);
                for other in &members {
                    let part = &value(*other).data;
                    sum.data.iter_mut().zip(part).for_each(|(s, x)| *s += x);
                }
                sum
            };
            let along = || -> Result<usize, OpError> {
                let dim = rule.str("dim")?;
                let at = results[0].position(dim);
                at.ok_or_else(|| OpError::new(format!("there is no dim `{dim}`")))
            };
            // This rank's part of `whole` along the dim.
            let part = |whole: &Tensor| -> Result<Tensor, OpError> {
                let at = along()?;
                let first = place * results[0].dims[at].size;
                Ok(Tensor::from_fn(results[0].clone(), |i| {
                    let mut i = i.to_vec();
                    i[at] += first;
                    whole.at(&i)
                }))
            };
            Ok(vec![match op.kind {
                OpKind::AllReduce => sum(),
                OpKind::ReduceScatter => part(&sum())?,
                OpKind::TakePart => part(value(rank))?,
                OpKind::AllToAll => {
                    let (at, from) = (along()?, rule.str("from")?);
                    let from = value(rank).ty.position(from);
                    let from =
                        from.ok_or_else(|| OpError::new("there is no dim divided before"))?;
                    let each = value(rank).ty.dims[from].size;
                    let first = place * results[0].dims[at].size;
                    Tensor::from_fn(results[0].clone(), |i| {
                        let mut i = i.to_vec();
                        let giver = members[i[from] / each];
                        i[from] %= each;
                        i[at] += first;
                        value(giver).at(&i)
                    })
                }
                _ => {
                    let at = along()?;
                    let each = value(rank).ty.dims[at].size;
                    Tensor::from_fn(results[0].clone(), |i| {
                        let mut i = i.to_vec();
                        let from = members[i[at] / each];
                        i[at] %= each;
                        value(from).at(&i)
                    })
                }
            }])
        })
        .collect()
}

fn repeat_ranks(
    module: &Module,
    rule: &RuleCx<'_>,
    g: &Function,
    axes: &Axes,
    operands: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, OpError> {
    let s = repeat::shape(rule)?;
    let ranks = operands.len();
    let mut carried: Vec<Vec<Tensor>> = operands.iter().map(|x| x[..s.carried].to_vec()).collect();
    let mut stacked: Vec<Vec<Tensor>> =
        vec![
            rule.results[s.carried..].iter().map(|t| Tensor::fill(t.clone(), f64::NAN)).collect();
            ranks
        ];
    for i in s.order() {
        let inputs: Vec<Vec<Tensor>> = operands
            .iter()
            .zip(carried)
            .map(|(x, mut inputs)| {
                for (n, t) in x.iter().enumerate().skip(s.carried) {
                    inputs.push(if n < s.carried + s.sliced {
                        let ty = g.ty(g.params[n]).clone();
                        let (size, i) = (ty.elements(), s.slice(n, i));
                        Tensor::new(ty, t.data[i * size..(i + 1) * size].to_vec())
                    } else {
                        t.clone()
                    });
                }
                inputs
            })
            .collect();
        let mut results = run_ranks(module, &g.name, axes, &inputs)?;
        for (rank, results) in results.iter_mut().enumerate() {
            for (out, part) in stacked[rank].iter_mut().zip(results.drain(s.carried..)) {
                let size = part.data.len();
                out.data[i * size..(i + 1) * size].copy_from_slice(&part.data);
            }
        }
        carried = results;
    }
    for (c, s) in carried.iter_mut().zip(stacked) {
        c.extend(s);
    }
    Ok(carried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_follow_the_numbering() {
        let axes = [("data".to_string(), 2), ("tensor".to_string(), 3)];
        assert_eq!(group(&axes, 4, "tensor"), [3, 4, 5]);
        assert_eq!(group(&axes, 4, "data"), [1, 4]);
        assert_eq!(group(&axes, 4, "pipe"), [4]);
    }
}
