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
    if sizes.contains(&0) || m.head_dim() == 0 {
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

    /// Parameters of published checkpoints: the sums of the shapes in their safetensors. GPT-NeoX-20B's is in its paper;
    /// GPT-3's are 12·L·h² + 13·L·h + 2·h + (50257 + 2048)·h, which its paper's table D.1 rounds. PaLM's are
    /// the sums of its matrices, which its paper gives as 8.63 and 540.35 billion; Gemma 3's from 4B on are those without
    /// the images' part. Pythia's rows come
    /// from the tokenizer and the tensor ranks that trained it.
    #[test]
    fn published_models_have_their_number_of_parameters() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let table = std::fs::read_to_string(configs.join("README.md")).expect("the table");
        for (file, tensor, want) in [
            ("pythia/14M", 1, 14_067_712),
            ("pythia/31M", 1, 30_494_720),
            ("pythia/70M", 1, 70_426_624),
            ("pythia/160M", 1, 162_322_944),
            ("pythia/410M", 1, 405_334_016),
            ("pythia/1B", 1, 1_011_781_632),
            ("pythia/1-4B", 1, 1_414_647_808),
            ("pythia/2-8B", 1, 2_775_208_960),
            ("pythia/6-9B", 2, 6_857_302_016),
            ("pythia/12B", 4, 11_846_072_320),
            ("gpt-neox/20B", 1, 20_554_567_680),
            ("gpt3/125M", 1, 125_226_240),
            ("gpt3/350M", 1, 355_871_744),
            ("gpt3/760M", 1, 760_300_032),
            ("gpt3/1-3B", 1, 1_315_723_264),
            ("gpt3/2-7B", 1, 2_651_553_280),
            ("gpt3/6-7B", 1, 6_658_404_352),
            ("gpt3/13B", 1, 12_853_386_240),
            ("gpt3/175B", 1, 174_604_259_328),
            ("llama/7B", 1, 6_738_415_616),
            ("llama/13B", 1, 13_015_864_320),
            ("llama/30B", 1, 32_528_943_616),
            ("llama/65B", 1, 65_285_660_672),
            ("llama2/7B", 1, 6_738_415_616),
            ("llama2/13B", 1, 13_015_864_320),
            ("llama2/70B", 1, 68_976_648_192),
            ("llama3/8B", 1, 8_030_261_248),
            ("llama3/70B", 1, 70_553_706_496),
            ("llama3.1/8B", 1, 8_030_261_248),
            ("llama3.1/70B", 1, 70_553_706_496),
            ("llama3.2/1B", 1, 1_235_814_400),
            ("llama3.2/3B", 1, 3_212_749_824),
            ("codellama/7B", 1, 6_738_546_688),
            ("codellama/13B", 1, 13_016_028_160),
            ("codellama/34B", 1, 33_743_970_304),
            ("llemma/7B", 1, 6_738_546_688),
            ("llemma/34B", 1, 33_743_970_304),
            ("mistral/7B", 1, 7_241_732_096),
            ("qwen2/7B", 1, 7_615_616_512),
            ("qwen3/0-6B", 1, 596_049_920),
            ("qwen3/8B", 1, 8_190_735_360),
            ("qwen3/32B", 1, 32_762_123_264),
            ("olmo2/7B", 1, 7_298_617_344),
            ("olmo2/13B", 1, 13_716_198_400),
            ("falcon/7B", 1, 6_921_720_704),
            ("falcon/40B", 1, 41_303_293_952),
            ("palm/8B", 1, 8_632_012_800),
            ("palm/540B", 1, 540_356_474_880),
            ("gemma3/270M", 1, 268_098_176),
            ("gemma3/1B", 1, 999_885_952),
            ("gemma3/4B", 1, 3_880_263_168),
            ("gemma3/12B", 1, 11_766_034_176),
            ("gemma3/27B", 1, 27_009_346_304),
            ("llama3.1/405B", 1, 405_853_388_800),
            ("mixtral/8x7B", 1, 46_702_792_704),
            ("mixtral/8x22B", 1, 140_620_634_112),
            ("qwen3/30B-A3B", 1, 30_532_122_624),
        ] {
            let sets = ["train_micro_batch_size_per_gpu=1", "train_iters=1", "seq_length=64"];
            let mut sets = sets.map(String::from).to_vec();
            if file.starts_with("pythia") {
                sets.push(format!("model_parallel_size={tensor}"));
                sets.push("tokenizer_type=HFTokenizer".into());
                sets.push("vocab_file=20B_tokenizer.json".into());
            }
            let loaded = neoxc_frontend::load(&[configs.join(format!("{file}.yml"))], None, &sets);
            let told = format!("{file}: {:?}", loaded.diagnostics);
            let config = loaded.config.expect(&told);
            let all = weights(&config).expect(&told);
            let count: u64 = all.iter().map(|w| w.layers * w.elements).sum();
            assert_eq!(count, want, "{file}");
            // The table for people says the same, with commas.
            let digits = count.to_string();
            let comma = |i: usize| i > 0 && (digits.len() - i).is_multiple_of(3);
            let digit = |(i, d): (usize, char)| [comma(i).then_some(','), Some(d)];
            let shown: String = digits.chars().enumerate().flat_map(digit).flatten().collect();
            let row = format!("| `{file}.yml` | {shown} |");
            assert!(table.contains(&row), "configs/README.md has no row {row}");
        }
    }
}
