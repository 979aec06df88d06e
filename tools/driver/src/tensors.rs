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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Parameters of published checkpoints: the sums of the shapes in their safetensors.
    #[test]
    fn published_models_have_their_number_of_parameters() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        for (file, want) in [
            ("llama/7B", 6_738_415_616),
            ("llama/13B", 13_015_864_320),
            ("llama/30B", 32_528_943_616),
            ("llama/65B", 65_285_660_672),
            ("llama2/7B", 6_738_415_616),
            ("llama2/13B", 13_015_864_320),
            ("llama2/70B", 68_976_648_192),
            ("codellama/7B", 6_738_546_688),
            ("codellama/13B", 13_016_028_160),
            ("codellama/34B", 33_743_970_304),
            ("llemma/7B", 6_738_546_688),
            ("llemma/34B", 33_743_970_304),
        ] {
            let sets = ["train_micro_batch_size_per_gpu=1", "train_iters=1", "seq_length=64"];
            let sets = sets.map(String::from);
            let loaded = neoxc_frontend::load(&[configs.join(format!("{file}.yml"))], None, &sets);
            let told = format!("{file}: {:?}", loaded.diagnostics);
            let config = loaded.config.expect(&told);
            let all = weights(&config).expect(&told);
            let count: u64 = all.iter().map(|w| w.layers * w.elements).sum();
            assert_eq!(count, want, "{file}");
        }
    }
}
