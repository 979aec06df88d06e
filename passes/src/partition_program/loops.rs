//! Loops: layouts that an iteration hands to the next, and loops whose iterations are divided.

use neoxc_ir::{Attr, Builder, Op, OpKind};

use super::accumulators::only_adds;
use super::layout::{Axes, Layout, ranks};
use super::{Body, Done, Ends, Partition, Val};
use crate::pass::PassError;

impl Partition<'_> {
    /// Adds one rank's version of a loop to the body.
    pub(super) fn repeat(&mut self, b: &mut Body<'_>, op: &Op) -> Result<(), PassError> {
        let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
        let (carried, sliced, count) = (at("carried"), at("sliced"), at("count"));
        let callee = op.attrs.symbol("callee").unwrap_or_default();
        let refuse = |what: String| PassError::internal_at(format!("a loop: {what}"), &op.loc);
        let body =
            self.source.function(callee).ok_or_else(|| refuse(format!("there is no @{callee}")))?;
        let slices = carried..carried + sliced;
        // The axes over which the iterations are divided.
        let mut axes = Axes::new();
        for o in &op.operands[slices.clone()] {
            let Some(layout) = b.layout(*o) else { continue };
            let leading = layout.dims.first().cloned().unwrap_or_default();
            if !leading.is_empty() && !axes.is_empty() && leading != axes {
                return Err(refuse("its slices are divided in two ways".into()));
            }
            if axes.is_empty() {
                axes = leading;
            }
        }
        let mut layouts: Vec<Option<Layout>> = vec![];
        for (n, o) in op.operands.iter().enumerate() {
            let value = b.values.get(o);
            layouts.push(match value {
                Some(Val::Known(_, l)) if slices.contains(&n) => {
                    if l.dims.first() != Some(&axes) {
                        return Err(refuse("some of its slices are divided, others not".into()));
                    }
                    Some(l.slice())
                }
                Some(Val::Known(_, l)) => {
                    if n < carried && !axes.is_empty() {
                        return Err(refuse("a divided loop starts from a value".into()));
                    }
                    Some(l.clone())
                }
                _ => None,
            });
        }
        if !axes.is_empty() {
            for n in 0..carried {
                let zero =
                    matches!(b.values.get(&op.operands[n]), Some(Val::Constant(x, _)) if *x == 0.0);
                if !zero || !only_adds(self.source, body, n, n) {
                    return Err(refuse(format!(
                        "its iterations cannot be divided over {}: value {n} is more than a sum",
                        axes.join("+")
                    )));
                }
            }
        }
        if axes.is_empty() {
            for (slot, o) in layouts.iter_mut().zip(&op.operands).take(carried) {
                if let Some(divided) = self.stream.layout(b.f.ty(*o)) {
                    *slot = Some(divided);
                }
            }
        }
        // A value that an iteration hands on is whole there; it may be partial in front of the loop.
        for (n, slot) in layouts.iter_mut().enumerate().take(carried) {
            if let Some(l) = slot
                && !l.partial.is_empty()
                && !only_adds(self.source, body, n, n)
            {
                l.partial.clear();
            }
        }
        let done = self.body(body, callee, layouts, carried)?;

        let ranks = ranks(&axes, self.degrees);
        let mut operands = vec![];
        for (n, o) in op.operands.iter().enumerate() {
            let want = match slices.contains(&n) {
                true => done.params[n].stacked(&axes),
                false => done.params[n].clone(),
            };
            operands.push(b.bring(*o, Some(&want))?.0);
        }
        let mut attrs = op.attrs.clone();
        attrs.set("callee", Attr::Symbol(done.name.clone()));
        attrs.set("count", Attr::Int((count / ranks) as i64));
        let mut builder = Builder::with_module(&mut b.g, &self.out);
        builder.at(&op.loc);
        let made = builder.op(OpKind::Repeat, &operands, attrs)?;
        for (n, (r, v)) in op.results.iter().zip(made).enumerate() {
            let mut layout = match n < carried {
                true => done.results[n].clone(),
                false => done.results[n].stacked(&axes),
            };
            if n < carried {
                layout.partial.extend(axes.iter().cloned());
            }
            b.values.insert(*r, Val::Known(v, layout));
        }
        Ok(())
    }

    /// The body for these layouts, made once.
    fn body(
        &mut self,
        f: &neoxc_ir::Function,
        callee: &str,
        layouts: Vec<Option<Layout>>,
        carried: usize,
    ) -> Result<Done, PassError> {
        let key = (callee.to_string(), layouts.clone());
        if let Some(done) = self.known.get(&key) {
            return Ok(done.clone());
        }
        let name = self.out.fresh_name(callee);
        let done = self.function(f, &name, layouts, Ends::Carried(carried))?;
        self.known.insert(key, done.clone());
        Ok(done)
    }
}
