//! The lint `equal-micro-batches`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "equal-micro-batches",
    text: "\
The loss of a micro-batch is the mean over its tokens that count, and micro-batches weigh equally, as in GPT-NeoX. Where
`eod_mask_loss` masks different numbers of tokens, the mean over micro-batches is not that over tokens, and depends a
little on how a step is divided.",
    wrong: "tokenizer_type: CharLevelTokenizer\npadded_vocab_size: 512\neod_mask_loss: true\ngradient_accumulation_steps: 4",
    right: "tokenizer_type: CharLevelTokenizer\npadded_vocab_size: 512\neod_mask_loss: true\ngradient_accumulation_steps: 1",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let count = c.run.grad_accum * c.parallel.copies();
    (c.run.eod_mask_loss && count > 1).then(|| Finding {
        message: format!(
            "the {count} micro-batches of a step weigh equally, whatever `eod_mask_loss` masks in each"
        ),
        keys: &["eod_mask_loss", "gradient_accumulation_steps"],
        hint: "`--set eod_mask_loss=false` lets every token weigh the same".into(),
    })
}
