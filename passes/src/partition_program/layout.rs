//! How one value is divided over the mesh.

use std::collections::BTreeSet;
use std::sync::Arc;

use neoxc_ir::{Attrs, Dim, TensorType};

use crate::pass::Degrees;

/// The name of a mesh axis.
pub type Axis = Arc<str>;

/// The axis that each dim is divided over, and the axes over which the ranks hold parts of a sum.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Layout {
    pub dims: Vec<Option<Axis>>,
    pub partial: BTreeSet<Axis>,
}

impl Layout {
    /// The same on every rank.
    pub fn whole(ty: &TensorType) -> Layout {
        Layout { dims: vec![None; ty.dims.len()], partial: BTreeSet::new() }
    }

    /// As `neox.layout` of a parameter says.
    pub fn of_attr(ty: &TensorType, attrs: &Attrs) -> Layout {
        let mut layout = Layout::whole(ty);
        let names = attrs.strs("neox.layout").unwrap_or_default();
        for (slot, name) in layout.dims.iter_mut().zip(names) {
            *slot = (!name.is_empty()).then(|| name.into());
        }
        let partial = attrs.strs("neox.partial").unwrap_or_default();
        layout.partial = partial.into_iter().map(Axis::from).collect();
        layout
    }

    /// Reads the axes of dims, separated by commas.
    pub fn parse(text: &str) -> Layout {
        let axis = |name: &str| (!name.is_empty()).then(|| name.into());
        Layout { dims: text.split(',').map(axis).collect(), partial: BTreeSet::new() }
    }

    /// One rank's part of a value of type `ty`.
    pub fn local(&self, ty: &TensorType, degrees: Degrees) -> TensorType {
        let size = |(d, axis): (&Dim, &Option<Axis>)| {
            Dim::new(&d.name, d.size / axis.as_ref().map_or(1, |a| degrees.of(a)))
        };
        TensorType::new(ty.dtype, ty.dims.iter().zip(&self.dims).map(size).collect())
    }

    /// The axis over which the dim called `name` of a value of type `ty` is divided.
    pub fn axis(&self, ty: &TensorType, name: &str) -> Option<&Axis> {
        self.dims[ty.position(name)?].as_ref()
    }

    /// Of one slice along the leading dim.
    pub fn slice(&self) -> Layout {
        Layout { dims: self.dims[1..].to_vec(), partial: self.partial.clone() }
    }

    /// Of slices like this one, stacked along a leading dim divided over `axis`.
    pub fn stacked(&self, axis: Option<Axis>) -> Layout {
        let dims = std::iter::once(axis).chain(self.dims.iter().cloned()).collect();
        Layout { dims, partial: self.partial.clone() }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<&str> = self.dims.iter().map(|a| a.as_deref().unwrap_or("")).collect();
        write!(f, "{dims:?}")?;
        if !self.partial.is_empty() {
            write!(f, " partial over {:?}", self.partial)?;
        }
        Ok(())
    }
}
