//! Tensor types: a dtype and *named* dims. A dim is a tensor's; an axis is the mesh's.
//!
//! Invariant: dim names are unique within one type, so an op can speak of `"embed"` and never of
//! "dimension 2". How axes divide the dims of an entry's values is an attribute (`neox.layout`), not part of the type.

use std::fmt;
use std::sync::Arc;

use crate::attrs::write_quoted;
use crate::op::OpError;

/// The most elements a tensor may have: byte counts then fit a `usize`, and f64 counts are exact.
pub const MAX_ELEMENTS: usize = 1 << 52;

/// Element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// 32-bit integer: token ids, counters.
    I32,
}

impl DType {
    /// All dtypes.
    pub const ALL: [DType; 5] = [DType::F32, DType::F64, DType::Bf16, DType::F16, DType::I32];

    /// The name in IR text.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::I32 => "i32",
        }
    }

    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }

    /// The dtype that ops compute in: f32 for the 16-bit floats, which only save bytes.
    #[must_use]
    pub fn wide(self) -> Self {
        match self {
            DType::Bf16 | DType::F16 => DType::F32,
            other => other,
        }
    }

    /// Whether gradients flow through it.
    pub fn is_float(self) -> bool {
        self != DType::I32
    }
}

/// A named dim and its size.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// `batch seq embed heads head_dim ffn vocab layer …`
    pub name: Arc<str>,
    /// Number of elements along it, at least 1.
    pub size: usize,
}

impl Dim {
    /// A dim.
    pub fn new(name: &str, size: usize) -> Self {
        Self { name: name.into(), size }
    }
}

/// dtype + named dims.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Dims from the slowest to the fastest in memory (row-major, contiguous).
    pub dims: Vec<Dim>,
}

impl TensorType {
    /// A tensor.
    pub fn new(dtype: DType, dims: Vec<Dim>) -> Self {
        Self { dtype, dims }
    }

    /// An undivided f32 tensor from `(name, size)` pairs.
    pub fn f32(dims: &[(&str, usize)]) -> Self {
        Self::new(DType::F32, dims.iter().map(|(n, s)| Dim::new(n, *s)).collect())
    }

    /// A scalar.
    pub fn scalar(dtype: DType) -> Self {
        Self::new(dtype, vec![])
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().map(|d| d.size).product()
    }

    /// Number of elements, or an error where there are more than a size can count
    /// ([`MAX_ELEMENTS`]).
    pub fn checked_elements(&self) -> Result<usize, OpError> {
        self.dims
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(d.size))
            .filter(|n| *n <= MAX_ELEMENTS)
            .ok_or_else(|| OpError::new(format!("{self} has more than 2^52 elements")))
    }

    /// Bytes of the contiguous tensor.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// Position of the dim called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.dims.iter().position(|d| &*d.name == name)
    }

    /// Size of the dim called `name`.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.position(name).map(|i| self.dims[i].size)
    }

    /// Whether a dim called `name` exists.
    pub fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.dims.len()];
        for i in (1..self.dims.len()).rev() {
            strides[i - 1] = strides[i] * self.dims[i].size;
        }
        strides
    }

    /// The same tensor with another dtype.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }

    /// Without the dim called `name`.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let dims = self.dims.iter().filter(|d| &*d.name != name).cloned().collect();
        Self { dtype: self.dtype, dims }
    }

    /// With `dim` put in front (as a loop's stacked results have).
    #[must_use]
    pub fn stacked(&self, dim: Dim) -> Self {
        let mut dims = vec![dim];
        dims.extend(self.dims.iter().cloned());
        Self { dtype: self.dtype, dims }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensor<")?;
        for d in &self.dims {
            write!(f, "{}x", d.size)?;
        }
        f.write_str(self.dtype.name())?;
        if !self.dims.is_empty() {
            f.write_str(", {dims = [")?;
            for (i, d) in self.dims.iter().enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                write_quoted(f, &d.name)?;
            }
            f.write_str("]}")?;
        }
        f.write_str(">")
    }
}
