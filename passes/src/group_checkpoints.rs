//! `group-checkpoints`: recomputation in groups of several layers.
//!
//! ```text
//! %y = repeat(%x, %w…) {callee = @block, count = 12, neox.checkpoint = 4}
//!   ⇒
//! %g… = reshape(%w)…                                        [layer_group 3, layer 4, …]
//! %y = repeat(%x, %g…) {callee = @block.group, count = 3, dim = "layer_group", neox.checkpoint = 1}
//! @block.group(%x, %w…) = repeat(%x, %w…) {callee = @block, count = 4}
//! ```
//! Then a checkpointed loop always recomputes its whole body, and `differentiate-loss` needs no
//! notion of groups: one input per group is kept, and the activations of one group live at a time.

use neoxc_ir::op::OpError;
use neoxc_ir::{
    Attr, Attrs, Builder, Dim, Function, Module, Op, OpKind, TensorType, ValueId, keys,
};

use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "group-checkpoints",
    doc: "make one loop body of each group of layers that is recomputed together",
    requires: &[],
    ensures: &[Fact::CheckpointsSingle],
    run,
};

/// The dim of groups.
const GROUPS: &str = "layer_group";

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    for at in 0..m.functions.len() {
        let f = m.functions[at].clone();
        let grouped = |op: &Op| op.attrs.int(keys::CHECKPOINT).is_some_and(|k| k > 1);
        if !f.ops.iter().any(grouped) {
            continue;
        }
        let mut out = f.clone();
        out.ops.clear();
        for op in &f.ops {
            if grouped(op) {
                group(m, &mut out, op)?;
                let (k, n) = (op.attrs.int(keys::CHECKPOINT), op.attrs.int("count"));
                report.notes.push(format!(
                    "@{}: {} layers recomputed in groups of {}",
                    f.name,
                    n.unwrap_or(0),
                    k.unwrap_or(0)
                ));
            } else {
                out.ops.push(op.clone());
            }
        }
        out.renumber();
        m.insert(out);
    }
    Ok(report)
}

/// `ty`, whose leading dim is a group of `k` of the old one.
fn regrouped(ty: &TensorType, k: usize) -> TensorType {
    let (old, rest) = (&ty.dims[0], &ty.dims[1..]);
    let outer = Dim::new(GROUPS, old.size / k);
    let inner = Dim::new(&old.name, k);
    TensorType::new(ty.dtype, [&[outer, inner], rest].concat())
}

fn group(m: &mut Module, f: &mut Function, op: &Op) -> Result<(), PassError> {
    let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
    let (count, carried, sliced, k) =
        (at("count"), at("carried"), at("sliced"), at(keys::CHECKPOINT));
    if k == 0 || !count.is_multiple_of(k) {
        return Err(OpError::new(format!("groups of {k} do not divide {count} layers")).into());
    }
    if op.results.len() != carried {
        return Err(PassError::internal("a checkpointed loop returns per-step values".into()));
    }
    let callee = op.attrs.symbol("callee").unwrap_or_default().to_string();
    let body =
        m.function(&callee).ok_or_else(|| PassError::internal(format!("there is no @{callee}")))?;

    // The group: the old loop over k slices.
    let mut g = Function::new(&m.fresh_name(&format!("{callee}.group")));
    let mut params = vec![];
    for (n, p) in body.params.iter().enumerate() {
        let name = body.values[p.index()].name.as_deref().unwrap_or("p");
        let ty = f.ty(op.operands[n]);
        let ty = match (carried..carried + sliced).contains(&n) {
            true => {
                let all = regrouped(ty, k);
                TensorType::new(all.dtype, all.dims[1..].to_vec())
            }
            false => ty.clone(),
        };
        params.push(g.add_param(name, ty, Attrs::new()));
    }
    let mut inner = op.attrs.clone();
    inner.0.remove(keys::CHECKPOINT);
    inner.set("count", Attr::Int(k as i64));
    let mut b = Builder::with_module(&mut g, m);
    b.at(&op.loc);
    g.results = b.op(OpKind::Repeat, &params, inner)?;
    let name = g.name.clone();
    m.insert(g);

    // The loop over groups keeps the results' names, so that nothing else changes.
    let mut operands: Vec<ValueId> = op.operands.clone();
    for o in &mut operands[carried..carried + sliced] {
        let ty = regrouped(f.ty(*o), k);
        let mut b = Builder::with_module(f, m);
        b.at(&op.loc);
        *o = b.one(OpKind::Reshape, &[*o], neoxc_ir::build::dims_attrs(&ty.dims))?;
    }
    let mut attrs = op.attrs.clone();
    attrs.set("callee", Attr::Symbol(name));
    attrs.set("count", Attr::Int((count / k) as i64));
    attrs.set("dim", Attr::Str(GROUPS.into()));
    attrs.set(keys::CHECKPOINT, Attr::Int(1));
    let kind = OpKind::Repeat;
    let results = op.results.clone();
    f.ops.push(Op { kind, operands, results, attrs, loc: op.loc.clone() });
    Ok(())
}
