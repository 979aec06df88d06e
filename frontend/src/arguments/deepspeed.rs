//! Arguments that GPT-NeoX hands on to DeepSpeed, and that belong to no other subject.

use neoxc_base::codes::sparse_attention;

use super::{Argument, dict, flag, text};

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    flag("deepspeed", true).idle("a plan is run without DeepSpeed").doc("Run under DeepSpeed."),
    flag("deepscale", false).unread().doc("Run under DeepScale."),
    text("deepscale_config").unread().doc("DeepScale's file of settings."),
    dict("deepspeed_extra_args").idle("a plan is run without DeepSpeed").doc("Further settings for DeepSpeed, merged last."),
    dict("sparse_attention").waits(&sparse_attention::KIND, "there are no sparse kinds of attention", "").doc("DeepSpeed's blocks of sparse attention."),
    dict("compression_training").not_yet("weights are neither quantised nor pruned in training", "").doc("DeepSpeed's quantisation and pruning while training."),
    dict("autotuning").idle("`neoxc tune` measures kernels, and `neoxc compile --cluster` predicts a layout").doc("DeepSpeed's search for batch sizes and ZeRO stages."),
    text("autotuning_run").idle("`neoxc tune` measures kernels, and `neoxc compile --cluster` predicts a layout").doc("Whether that search tunes, or runs with what it found."),
];
