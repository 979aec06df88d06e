//! What a family declares of a parameter: everything that passes, code generation, the runtime and conversions
//! need to know of it, so that none of them knows a parameter's name.
//!
//! On an entry's parameter a declaration is attributes: `neox.param` (the logical name), `neox.init`,
//! `neox.decay`, `neox.shape`, and where they say something `neox.tensor`, `neox.tensor_if_even`, `neox.experts`,
//! `neox.frozen` and `neox.before_layers` (`docs/design/contracts.md`).

use neoxc_config::Start;
use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, DType, Dim, TensorType, ValueId, keys};

/// A tensor of a Hugging Face checkpoint that has a parameter's values, or those of a range of one of its dims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The tensor's name, of a parameter of a layer within that layer.
    pub name: String,
    /// The dim of which it has a range, by its number among the parameter's dims.
    pub dim: usize,
    /// First element of the range.
    pub start: usize,
    /// Elements of the range.
    pub size: usize,
}

/// One parameter, of a layer or outside of layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// What blocks ask for it by, the same in all families: `attention.qkv.weight`.
    pub role: &'static str,
    /// Logical name, of a parameter of a layer within that layer.
    pub name: &'static str,
    /// The dims that passes see.
    pub dims: Vec<Dim>,
    /// How many of the dims are rows in published checkpoints, the others being columns; none where published
    /// shapes are `dims` themselves. Of all dims: a vector.
    pub rows: Option<usize>,
    /// Start value of an element: an expression (`neoxc_plan::Init`), such as `0.02 * normal`; in it, `rows` and
    /// `columns` are those of the published matrix.
    pub init: String,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether training changes it: otherwise it has neither gradient nor optimizer state.
    pub trainable: bool,
    /// Dims that tensor ranks divide; that they do divide them is checked with the configuration.
    pub tensor: Vec<&'static str>,
    /// Dims that tensor ranks divide where they divide them evenly, and otherwise leave whole.
    pub tensor_if_even: Vec<&'static str>,
    /// The dim that expert ranks divide, of experts' own parameters.
    pub experts: Option<&'static str>,
    /// Whether it is used before the layers, and not behind them.
    pub before_layers: bool,
    /// Where Hugging Face's checkpoints have it: one tensor of the logical name if not said otherwise; empty where
    /// they have no such parameter.
    pub pieces: Vec<Piece>,
}

/// The start value of weights. `rows` and `columns` stand for those of the parameter's published matrix, or of one
/// expert's.
pub fn normal(start: Start) -> String {
    match start {
        Start::Normal(std) => format!("{std:?} * normal"),
        Start::XavierNormal => "sqrt(2.0 / (rows + columns)) * normal".into(),
        Start::XavierUniform => "sqrt(6.0 / (rows + columns)) * (2.0 * uniform - 1.0)".into(),
    }
}

impl Param {
    /// A weight with rows and columns, decayed: the first `rows` dims are a published matrix's rows.
    pub fn weight(
        role: &'static str,
        name: &'static str,
        dims: &[(&str, usize)],
        rows: usize,
        init: String,
    ) -> Self {
        let dims: Vec<Dim> = dims.iter().map(|(n, s)| Dim::new(n, *s)).collect();
        let whole = dims.first().map_or(1, |d| d.size);
        Self {
            role,
            name,
            dims,
            rows: Some(rows),
            init,
            decay: true,
            trainable: true,
            tensor: vec![],
            tensor_if_even: vec![],
            experts: None,
            before_layers: false,
            pieces: vec![Piece { name: name.into(), dim: 0, start: 0, size: whole }],
        }
    }

    /// A vector that is not decayed, as GPT-NeoX has it of norms and biases.
    fn vector(role: &'static str, name: &'static str, dims: &[(&str, usize)], init: &str) -> Self {
        let p = Self::weight(role, name, dims, dims.len(), init.into());
        Self { decay: false, ..p }
    }

    /// With `centred`, a norm's weight to which 1 is added: starts at 0.
    pub fn zero_centred(self, centred: bool) -> Self {
        if centred { Self { init: "0".into(), ..self } } else { self }
    }

    /// A norm's weight: starts at 1.
    pub fn scale(role: &'static str, name: &'static str, dims: &[(&str, usize)]) -> Self {
        Self::vector(role, name, dims, "1")
    }

    /// A bias: starts at 0.
    pub fn bias(role: &'static str, name: &'static str, dims: &[(&str, usize)]) -> Self {
        Self::vector(role, name, dims, "0")
    }

    /// Tensor ranks divide `dim`.
    pub fn divided(mut self, dim: &'static str) -> Self {
        self.tensor.push(dim);
        self
    }

    /// Tensor ranks divide `dim` where they do so evenly.
    pub fn divided_if_even(mut self, dim: &'static str) -> Self {
        self.tensor_if_even.push(dim);
        self
    }

    /// One of each expert, along `dim`: published with its own dims.
    pub fn of_experts(self, dim: &'static str) -> Self {
        Self { experts: Some(dim), rows: None, ..self }
    }

    /// It is used before the layers.
    pub fn before_layers(self) -> Self {
        Self { before_layers: true, ..self }
    }

    /// Where Hugging Face's checkpoints have it.
    pub fn published_as(self, pieces: Vec<Piece>) -> Self {
        Self { pieces, ..self }
    }

    /// Its type, without layers.
    pub fn ty(&self) -> TensorType {
        TensorType::new(DType::F32, self.dims.clone())
    }

    /// The shape that published checkpoints have, of the parameter or of a piece of it. One expert's tensor has no dim
    /// of experts.
    pub fn shape_of(&self, piece: Option<&Piece>) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.dims.iter().map(|d| d.size).collect();
        let of_one = |p: &&Piece| p.size == 1 && self.experts == Some(&*self.dims[p.dim].name);
        if let Some(p) = piece.filter(of_one) {
            sizes.remove(p.dim);
            return sizes;
        }
        if let Some(p) = piece {
            sizes[p.dim] = p.size;
        }
        match self.rows {
            None => sizes,
            Some(rows) if rows == sizes.len() => vec![sizes.iter().product()],
            Some(rows) => {
                vec![sizes[..rows].iter().product(), sizes[rows..].iter().product()]
            }
        }
    }

    /// The expression of the start value, with the sizes that it speaks of.
    fn start(&self) -> String {
        let sizes: Vec<usize> = self.dims.iter().map(|d| d.size).collect();
        // A matrix of experts is one of each.
        let (rows, columns) = match (self.rows, self.experts) {
            (Some(rows), _) => sizes.split_at(rows.min(sizes.len())),
            (None, Some(_)) if sizes.len() > 2 => (&sizes[1..2], &sizes[2..]),
            _ => sizes.split_at(1.min(sizes.len())),
        };
        let count = |sizes: &[usize]| format!("{}.0", sizes.iter().product::<usize>());
        self.init.replace("rows", &count(rows)).replace("columns", &count(columns))
    }

    /// The name of the function parameter: `attention.dense.weight` → `attention_dense_weight`.
    pub fn short(&self) -> String {
        self.name.replace('.', "_")
    }

    /// The declaration as attributes of an entry's parameter of this logical name.
    pub fn attrs(&self, full_name: &str) -> Attrs {
        let shape: Vec<i64> = self.shape_of(None).into_iter().map(|n| n as i64).collect();
        let mut attrs = Attrs::new()
            .with(keys::PARAM, Attr::Str(full_name.to_string()))
            .with(keys::INIT, Attr::Str(self.start()))
            .with(keys::DECAY, Attr::Bool(self.decay))
            .with(keys::SHAPE, Attr::ints(&shape));
        for (key, dims) in
            [(keys::TENSOR, &self.tensor), (keys::TENSOR_IF_EVEN, &self.tensor_if_even)]
        {
            if !dims.is_empty() {
                attrs.set(key, Attr::strs(dims));
            }
        }
        if let Some(dim) = self.experts {
            attrs.set(keys::EXPERTS, Attr::Str(dim.into()));
        }
        for (key, is) in
            [(keys::FROZEN, !self.trainable), (keys::BEFORE_LAYERS, self.before_layers)]
        {
            if is {
                attrs.set(key, Attr::Bool(true));
            }
        }
        attrs
    }
}

/// Parameters of a function under construction, found by role.
#[derive(Debug, Clone, Default)]
pub struct Values(pub Vec<(&'static str, ValueId)>);

impl Values {
    /// The parameter of this role, if the model has one.
    pub fn get(&self, role: &str) -> Option<ValueId> {
        self.0.iter().find(|(n, _)| *n == role).map(|(_, v)| *v)
    }

    /// The parameter of this role.
    ///
    /// # Errors
    /// If the family declares none.
    pub fn need(&self, role: &str) -> Result<ValueId, OpError> {
        self.get(role).ok_or_else(|| OpError::new(format!("the model has no `{role}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the whole matrix as it is published; of experts, of each one's.
    #[test]
    fn xavier_values_know_their_matrix() {
        let init = |p: Param| p.attrs("w").str(keys::INIT).map(str::to_string);
        let dims = [("heads", 2), ("qkv", 3), ("head_dim", 4), ("embed", 8)];
        let p = Param::weight("w", "w", &dims, 3, normal(Start::XavierNormal));
        assert_eq!(init(p).as_deref(), Some("sqrt(2.0 / (24.0 + 8.0)) * normal"));
        let dims = [("experts", 7), ("ffn", 5), ("embed", 3)];
        let p = Param::weight("w", "w", &dims, 2, normal(Start::XavierUniform));
        let want = "sqrt(6.0 / (5.0 + 3.0)) * (2.0 * uniform - 1.0)";
        assert_eq!(init(p.of_experts("experts")).as_deref(), Some(want));
    }
}
