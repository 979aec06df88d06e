//! From one layout to another: the exchanges, in the order that moves the fewest bytes.

use neoxc_ir::{Attr, Attrs, Builder, Loc, TensorType, ValueId};

use super::Body;
use super::layout::{Axis, Layout};
use crate::pass::{Degrees, PassError};

impl Body<'_> {
    /// One rank's value `local`, of the whole type `ty` and laid out as `have`, made to be laid out as
    /// `wanted`. A sum that is wanted divided is scattered while it is made; what is taken apart is
    /// taken apart before, and what is put together is put together after everything else. Where ranks
    /// that divide one dim are wanted to divide another one, they change their parts.
    pub(super) fn convert(
        &mut self,
        mut local: ValueId,
        ty: &TensorType,
        have: &Layout,
        wanted: &Layout,
        loc: &Loc,
    ) -> Result<ValueId, PassError> {
        let mut now = have.clone();
        let impossible =
            || PassError::Unsupported(format!("{ty}, laid out as {have}, cannot become {wanted}"));
        if !wanted.partial.is_subset(&have.partial) {
            return Err(impossible());
        }
        local = self.divide(local, ty, &mut now, wanted, loc)?;
        for axis in now.partial.clone().difference(&wanted.partial) {
            local = self.exchange("all_reduce", local, attrs(axis, self.degrees, None), loc)?;
            now.partial.remove(axis);
        }
        for (i, dim) in ty.dims.iter().enumerate() {
            while !wanted.dims[i].starts_with(&now.dims[i])
                && let Some(axis) = now.dims[i].pop()
            {
                let attrs = attrs(&axis, self.degrees, Some(&dim.name));
                local = self.exchange("all_gather", local, attrs, loc)?;
            }
        }
        local = self.divide(local, ty, &mut now, wanted, loc)?;
        if now != *wanted {
            return Err(impossible());
        }
        Ok(local)
    }

    /// Divides dims over the axes that they are wanted divided over, as far as these are free or can be
    /// had from another dim.
    fn divide(
        &mut self,
        mut local: ValueId,
        ty: &TensorType,
        now: &mut Layout,
        wanted: &Layout,
        loc: &Loc,
    ) -> Result<ValueId, PassError> {
        for (i, dim) in ty.dims.iter().enumerate() {
            while wanted.dims[i].starts_with(&now.dims[i])
                && let Some(axis) = wanted.dims[i].get(now.dims[i].len()).cloned()
            {
                let mut attrs = attrs(&axis, self.degrees, Some(&dim.name));
                let op = match now.dims.iter().position(|axes| axes.contains(&axis)) {
                    None if !now.partial.contains(&axis) => "take_part",
                    None if wanted.partial.contains(&axis) => break,
                    None => "reduce_scatter",
                    // Only the innermost division of a dim can be changed for another, and only if it
                    // is not wanted where it is.
                    Some(from) => {
                        let last = now.dims[from].last() == Some(&axis);
                        if !last || wanted.dims[from].starts_with(&now.dims[from]) {
                            break;
                        }
                        attrs.set("from", Attr::Str(ty.dims[from].name.to_string()));
                        now.dims[from].pop();
                        "all_to_all"
                    }
                };
                local = self.exchange(op, local, attrs, loc)?;
                now.partial.remove(&axis);
                now.dims[i].push(axis);
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
