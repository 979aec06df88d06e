//! From one layout to another, by the cheapest route.

use neoxc_ir::{Attr, Attrs, Builder, Loc, TensorType, ValueId};

use super::Body;
use super::layout::Layout;
use super::route::cheapest;
use crate::pass::PassError;

impl Body<'_> {
    /// One rank's value `local`, of the whole type `ty` and laid out as `have`, made to be laid out as
    /// `wanted`.
    pub(super) fn convert(
        &mut self,
        mut local: ValueId,
        ty: &TensorType,
        have: &Layout,
        wanted: &Layout,
        loc: &Loc,
    ) -> Result<ValueId, PassError> {
        let Some((steps, _)) = cheapest(ty, have, wanted, &self.links, self.degrees) else {
            let refused = format!("{ty}, laid out as {have}, cannot become {wanted}");
            return Err(PassError::internal(refused));
        };
        for step in steps {
            let mut attrs = Attrs::new()
                .with("axis", Attr::Str(step.axis.to_string()))
                .with("ranks", Attr::Int(self.degrees.of(&step.axis) as i64));
            for (key, dim) in [("dim", step.dim), ("from", step.from)] {
                if let Some(i) = dim {
                    attrs.set(key, Attr::Str(ty.dims[i].name.to_string()));
                }
            }
            let mut b = Builder::new(&mut self.g);
            b.at(loc);
            local = b.one(step.kind, &[local], attrs)?;
        }
        Ok(local)
    }
}
