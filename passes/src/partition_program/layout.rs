//! How one value is divided over the mesh.

use std::collections::BTreeSet;
use std::sync::Arc;

use neoxc_ir::{Attrs, Dim, TensorType, keys};

use crate::pass::Degrees;

/// The name of a mesh axis.
pub type Axis = Arc<str>;

/// The axes that one dim is divided over, the outermost first: each divides the parts that those before
/// it make. None leave it whole.
pub type Axes = Vec<Axis>;

/// The axes that divide each dim, and those over which the ranks hold parts of a sum.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Layout {
    pub dims: Vec<Axes>,
    pub partial: BTreeSet<Axis>,
}

/// Parts that a dim divided over `axes` has.
pub fn ranks(axes: &Axes, degrees: Degrees) -> usize {
    axes.iter().map(|a| degrees.of(a)).product()
}

/// Reads `outer+inner`.
fn parse(text: &str) -> Axes {
    text.split('+').filter(|name| !name.is_empty()).map(Axis::from).collect()
}

impl Layout {
    /// The same on every rank.
    pub fn whole(ty: &TensorType) -> Layout {
        Layout { dims: vec![vec![]; ty.dims.len()], partial: BTreeSet::new() }
    }

    /// As `neox.layout` of a parameter says.
    pub fn of_attr(ty: &TensorType, attrs: &Attrs) -> Layout {
        let mut layout = Layout::whole(ty);
        let names = attrs.strs(keys::LAYOUT).unwrap_or_default();
        for (slot, name) in layout.dims.iter_mut().zip(names) {
            *slot = parse(name);
        }
        let partial = attrs.strs(keys::PARTIAL).unwrap_or_default();
        layout.partial = partial.into_iter().map(Axis::from).collect();
        layout
    }

    /// Reads the axes of dims, separated by commas.
    pub fn parse(text: &str) -> Layout {
        Layout { dims: text.split(',').map(parse).collect(), partial: BTreeSet::new() }
    }

    /// One rank's part of a value of type `ty`.
    pub fn local(&self, ty: &TensorType, degrees: Degrees) -> TensorType {
        let size = |(d, axes): (&Dim, &Axes)| Dim::new(&d.name, d.size / ranks(axes, degrees));
        TensorType::new(ty.dtype, ty.dims.iter().zip(&self.dims).map(size).collect())
    }

    /// The axes over which the dim called `name` of a value of type `ty` is divided.
    pub fn axes(&self, ty: &TensorType, name: &str) -> Axes {
        ty.position(name).map(|at| self.dims[at].clone()).unwrap_or_default()
    }

    /// Whether any dim is divided.
    pub fn is_divided(&self) -> bool {
        self.dims.iter().any(|axes| !axes.is_empty())
    }

    /// Of one slice along the leading dim.
    pub fn slice(&self) -> Layout {
        Layout { dims: self.dims[1..].to_vec(), partial: self.partial.clone() }
    }

    /// Of slices like this one, stacked along a leading dim divided over `axes`.
    pub fn stacked(&self, axes: &Axes) -> Layout {
        let dims = std::iter::once(axes).chain(&self.dims).cloned().collect();
        Layout { dims, partial: self.partial.clone() }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(|axes| axes.join("+")).collect();
        write!(f, "{dims:?}")?;
        if !self.partial.is_empty() {
            write!(f, " partial over {:?}", self.partial)?;
        }
        Ok(())
    }
}
