//! The weights that a configuration's model has, without compiling it.

use neoxc_frontend::Config;
use neoxc_ir::keys;
use neoxc_plan::names;

use crate::{CompileError, lower_config};

/// A weight, or the stack of one weight of all layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Logical name, with `{layer}` where it is a stack.
    pub name: String,
    /// Layers, or 1.
    pub layers: u64,
    /// Elements of one layer's tensor.
    pub elements: u64,
}

impl Weight {
    /// The logical name of each layer's.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.layers).map(|i| names::of_slice(&self.name, i))
    }
}

/// All weights, in the order of the model.
pub fn weights(config: &Config) -> Result<Vec<Weight>, CompileError> {
    let wrong = |what: &str| CompileError::Model(what.to_string());
    let m = &config.model;
    // A configuration that was read from a file of ours may still be anybody's.
    let sizes = [m.num_layers, m.hidden_size, m.num_attention_heads, m.seq_length];
    if sizes.contains(&0) || !m.hidden_size.is_multiple_of(m.num_attention_heads) {
        return Err(wrong("layers, hidden size, heads and sequence make no model"));
    }
    let module = neoxc_models::build(&lower_config::arch(config))
        .map_err(|e| CompileError::Model(e.to_string()))?;
    let f = module.function("loss").ok_or_else(|| wrong("the model has no loss"))?;
    let named = f.params.iter().zip(&f.param_attrs);
    let named = named.filter_map(|(p, attrs)| Some((attrs.str(keys::PARAM)?, f.ty(*p))));
    let weight = |(name, ty): (&str, &neoxc_ir::TensorType)| {
        let mut dims = ty.dims.iter().map(|d| d.size as u64);
        let layers = if names::is_stacked(name) { dims.next().unwrap_or(1) } else { 1 };
        Weight { name: name.into(), layers, elements: dims.product() }
    };
    Ok(named.map(weight).collect())
}
