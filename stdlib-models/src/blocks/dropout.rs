//! Dropout in models: what names the elements, and where they are dropped.
//!
//! An element's mask depends on its name alone (`neox.dropout`), so every part of a name is a value that is
//! divided over ranks like the data: `places` (each token's number in the whole run) come with the batch,
//! `layers` are divided over stages as layers are, columns, keys and heads are constants.

use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, OpKind, TensorType, ValueId, keys};

use super::Result;
use crate::arch::Arch;

/// Number of kinds.
const SITES: usize = 4;

/// The kinds of dropout of a model; each has masks of its own.
#[derive(Debug, Clone, Copy)]
pub enum Site {
    /// The embedding's output.
    Embedding,
    /// The attention branch's output.
    Attention,
    /// The MLP branch's output.
    Mlp,
    /// The attention weights.
    Weights,
}

/// A constant that names elements, numbered in the order of its dims: its parameter, and the dims.
type Constant = (&'static str, Vec<Dim>);

/// Constants that a model's dropouts need.
pub fn constants(a: &Arch) -> Vec<Constant> {
    let mut out = vec![];
    if a.hidden_dropout > 0.0 {
        out.push(("columns", vec![Dim::new("embed", a.embed)]));
    }
    if a.attention_dropout > 0.0 {
        out.push(("keys", vec![Dim::new("kv_seq", a.seq)]));
        let mut heads = vec![Dim::new("heads", a.key_heads())];
        if a.queries() > 1 {
            heads.push(Dim::new("queries", a.queries()));
        }
        out.push(("heads", heads));
    }
    out
}

/// Whether anything is dropped.
pub fn drops(a: &Arch) -> bool {
    a.hidden_dropout > 0.0 || a.attention_dropout > 0.0
}

/// What names the elements in one function.
#[derive(Debug, Clone)]
pub struct Names {
    /// [batch, seq].
    pub places: ValueId,
    /// Of all layers (or periods of layers), or the layer's own.
    pub layer: ValueId,
    /// The layer's place in its period.
    position: usize,
    constants: Vec<(&'static str, ValueId)>,
}

impl Names {
    /// Adds them to a function's parameters; `layers` is none in a layer's own function.
    pub fn declare(a: &Arch, f: &mut Function, layers: Option<usize>) -> Names {
        let ids = |dims: Vec<Dim>| TensorType::new(DType::I32, dims);
        let role = |role: &str, name: &str| match layers {
            Some(_) => Attrs::new()
                .with(keys::ROLE, Attr::Str(role.into()))
                .with(keys::NAME, Attr::Str(name.into())),
            None => Attrs::new(),
        };
        // A layer's function has its slice in front of what all layers share.
        let all = layers.map(|n| Dim::new("layer", n)).into_iter().collect();
        let name = if layers.is_some() { "layers" } else { "layer" };
        let layer = f.add_param(name, ids(all), role("layers", "layers"));
        let tokens = ids(vec![Dim::new("batch", a.batch), Dim::new("seq", a.seq)]);
        let mut attrs = role("batch", "places");
        if layers.is_some() && a.attention_dropout > 0.0 {
            // Attention needs the numbers of the whole sequence, and ranks that divide it take theirs
            // elsewhere without asking.
            attrs.set(keys::WHOLE, Attr::strs(&["seq"]));
        }
        let places = f.add_param("places", tokens, attrs);
        let constants = constants(a)
            .into_iter()
            .map(|(name, dims)| (name, f.add_param(name, ids(dims), role("const", name))))
            .collect();
        Names { places, layer, position: 0, constants }
    }

    /// The same for the layer at `position` of a period, which has masks of its own.
    pub fn at(&self, position: usize) -> Names {
        Names { position, ..self.clone() }
    }

    /// What all layers share, in the order of their parameters.
    pub fn shared(&self) -> Vec<ValueId> {
        std::iter::once(self.places).chain(self.constants.iter().map(|(_, v)| *v)).collect()
    }

    fn constant(&self, name: &str) -> Result<ValueId> {
        let found = self.constants.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        found.ok_or_else(|| OpError::new(format!("the model has no `{name}`")))
    }

    /// `x`, whose last dim is `embed`, with elements dropped.
    pub fn hidden(&self, a: &Arch, b: &mut Builder<'_>, x: ValueId, site: Site) -> Result<ValueId> {
        if a.hidden_dropout == 0.0 {
            return Ok(x);
        }
        b.at(&a.loc("hidden_dropout"));
        // The embedding is in front of all layers.
        let layer = match site {
            Site::Embedding => b.fill(0.0, &TensorType::scalar(DType::I32))?,
            _ => self.layer,
        };
        let operands = [x, self.places, layer, self.constant("columns")?];
        b.one(OpKind::Dropout, &operands, self.attrs(a, a.hidden_dropout, site))
    }

    /// Attention weights [batch, heads, seq, kv_seq] with elements dropped.
    pub fn weights(&self, a: &Arch, b: &mut Builder<'_>, x: ValueId) -> Result<ValueId> {
        if a.attention_dropout == 0.0 {
            return Ok(x);
        }
        b.at(&a.loc("attention_dropout"));
        let (keys, heads) = (self.constant("keys")?, self.constant("heads")?);
        let operands = [x, self.places, self.layer, keys, heads];
        b.one(OpKind::Dropout, &operands, self.attrs(a, a.attention_dropout, Site::Weights))
    }

    fn attrs(&self, a: &Arch, rate: f64, site: Site) -> Attrs {
        Attrs::new()
            .with("rate", Attr::Float(rate))
            .with("seed", Attr::Int(a.seed.into()))
            .with("site", Attr::Int((site as usize + SITES * self.position) as i64))
    }
}
