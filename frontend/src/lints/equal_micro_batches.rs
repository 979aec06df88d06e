//! The lint `equal-micro-batches`.

use neoxc_config::Packing;

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "equal-micro-batches",
    text: "\
The loss of a micro-batch is the mean over its tokens that count, and micro-batches weigh equally, as in GPT-NeoX. Where
`eod_mask_loss`, labels or padding mask different numbers of tokens, the mean over micro-batches is not that over tokens, and depends a
little on how a step is divided.",
    wrong: "tokenizer_type: CharLevelTokenizer\npadded_vocab_size: 512\neod_mask_loss: true\ngradient_accumulation_steps: 4",
    right: "tokenizer_type: CharLevelTokenizer\npadded_vocab_size: 512\neod_mask_loss: true\ngradient_accumulation_steps: 1",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let count = c.run.grad_accum * c.parallel.copies();
    let labels = c.run.train_data.iter().any(|s| s.labels.is_some());
    let masks = [
        (c.run.eod_mask_loss, "`eod_mask_loss` masks", "`--set eod_mask_loss=false` lets"),
        (labels, "`train_label_data_paths` masks", "micro-batches of more sequences let nearly"),
        (c.run.packing != Packing::Packed, "padding is", "`--set pack_impl=packed` lets"),
    ];
    let (_, what, instead) = masks.into_iter().find(|m| m.0 && count > 1)?;
    Some(Finding {
        message: format!("the {count} micro-batches of a step weigh equally, whatever {what} in each"),
        keys: &["eod_mask_loss", "train_label_data_paths", "pack_impl", "gradient_accumulation_steps"],
        hint: format!("{instead} every token weigh the same"),
    })
}
