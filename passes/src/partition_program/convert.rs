//! From one layout to another: the exchanges, in the order that moves the fewest bytes.

use neoxc_ir::{Attr, Attrs, Builder, Loc, TensorType, ValueId};

use super::Body;
use super::layout::{Axis, Layout};
use crate::pass::{Degrees, PassError};

impl Body<'_> {
    /// One rank's value `local`, of the whole type `ty` and laid out as `have`, made to be laid out as
    /// `wanted`. A sum that is wanted divided is scattered while it is made; what is taken apart is
    /// taken apart before, and what is put together is put together after everything else.
    pub(super) fn convert(
        &mut self,
        mut local: ValueId,
        ty: &TensorType,
        have: &Layout,
        wanted: &Layout,
        loc: &Loc,
    ) -> Result<ValueId, PassError> {
        let mut now = have.clone();
        if !wanted.partial.is_subset(&have.partial) {
            return Err(PassError::Unsupported(format!(
                "{ty}, laid out as {have}, cannot become {wanted}"
            )));
        }
        for (i, dim) in ty.dims.iter().enumerate() {
            let Some(axis) = wanted.dims[i].clone().filter(|_| now.dims[i].is_none()) else {
                continue;
            };
            // Where another dim is divided over the same ranks, they change their parts.
            if let Some(from) = now.dims.iter().position(|a| *a == Some(axis.clone())) {
                let attrs = attrs(&axis, self.degrees, Some(&dim.name))
                    .with("from", Attr::Str(ty.dims[from].name.to_string()));
                local = self.exchange("all_to_all", local, attrs, loc)?;
                now.dims[from] = None;
                now.dims[i] = Some(axis);
                continue;
            }
            let summed = now.partial.contains(&axis) && !wanted.partial.contains(&axis);
            let op = if summed { "reduce_scatter" } else { "take_part" };
            local = self.exchange(op, local, attrs(&axis, self.degrees, Some(&dim.name)), loc)?;
            now.partial.remove(&axis);
            now.dims[i] = Some(axis);
        }
        for axis in now.partial.clone().difference(&wanted.partial) {
            local = self.exchange("all_reduce", local, attrs(axis, self.degrees, None), loc)?;
            now.partial.remove(axis);
        }
        for (i, dim) in ty.dims.iter().enumerate() {
            if now.dims[i] != wanted.dims[i]
                && let Some(axis) = now.dims[i].take()
            {
                let attrs = attrs(&axis, self.degrees, Some(&dim.name));
                local = self.exchange("all_gather", local, attrs, loc)?;
            }
        }
        for (i, dim) in ty.dims.iter().enumerate() {
            if let Some(axis) = wanted.dims[i].clone().filter(|_| now.dims[i].is_none()) {
                let attrs = attrs(&axis, self.degrees, Some(&dim.name));
                local = self.exchange("take_part", local, attrs, loc)?;
                now.dims[i] = Some(axis);
            }
        }
        Ok(local)
    }

    fn exchange(
        &mut self,
        op: &str,
        x: ValueId,
        attrs: Attrs,
        loc: &Loc,
    ) -> Result<ValueId, PassError> {
        let mut b = Builder::new(&mut self.g);
        b.at(loc);
        Ok(b.one(op, &[x], attrs)?)
    }
}

fn attrs(axis: &Axis, degrees: Degrees, dim: Option<&str>) -> Attrs {
    let mut attrs = Attrs::new()
        .with("axis", Attr::Str(axis.to_string()))
        .with("ranks", Attr::Int(degrees.of(axis) as i64));
    if let Some(dim) = dim {
        attrs.set("dim", Attr::Str(dim.to_string()));
    }
    attrs
}
