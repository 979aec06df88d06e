//! Arguments of the optimizer, of ZeRO and of the learning rate.

use super::{Argument, any, dict, flag, float, int, list, text, word};

const PLANNED: &str = "the compiler plans what is communicated, and when";
const IN_ZERO: &str = "set `zero_optimization.stage`";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    dict("optimizer").doc("The optimizer's `type` and `params`; a type that is not known is refused with the names of those that are. `Adam` is AdamW, as in GPT-NeoX: decay is decoupled from the gradient; `params: {adam_w_mode: false}` makes it part of it. `cpu_adam` is the same: on a CPU the state lies in the memory of the host."),
    list("param_groups").ours().doc("Groups of parameters with a learning rate or a weight decay of their own; the first group that has a parameter counts. Norms and biases decay in no group. A pattern that no parameter's name fits is refused."),
    list("freeze").ours().doc("Parameters that are not trained, by patterns for their logical names, in which `*` stands for any characters: `[\"gpt_neox.embed_in.weight\", \"*.attention.*\"]`. They keep their start values, or those of the checkpoint that is loaded, and have neither gradient nor optimizer state. A pattern that no parameter's name fits is refused, and so are patterns that leave nothing to train."),
    text("optimizer_type").says("adam").doc("The optimizer's name, in any case; `optimizer.type` says it too, and is what one writes."),
    flag("use_bnb_optimizer", false).not_yet("optimizer state is f32", "").doc("Keep Adam's moments in 8 bits."),
    any("zero_stage").not_yet("the stage is read where DeepSpeed reads it", IN_ZERO).doc("Stage of ZeRO."),
    flag("zero_reduce_scatter", false).unset().idle(PLANNED).doc("Sum gradients with reduce-scatter instead of all-reduce."),
    flag("zero_contiguous_gradients", false).unset().idle(PLANNED).doc("Copy gradients into one buffer as they are made."),
    int("zero_reduce_bucket_size").idle(PLANNED).doc("Elements of gradients that ZeRO sums at once."),
    int("zero_allgather_bucket_size").idle(PLANNED).doc("Elements of weights that ZeRO gathers at once."),
    dict("zero_optimization").doc("DeepSpeed's ZeRO: `stage` says what data ranks divide beside the micro-batches: optimizer state (1), sums of gradients (2), weights (3). Its settings of buffers and overlap have no effect, since all of it is planned; offloading is not supported yet."),
    float("lr").below(0.0, f64::INFINITY).doc("Peak learning rate; `optimizer.params.lr` says it too, and wins."),
    word("lr_decay_style", "linear", &["constant", "linear", "cosine", "exponential", "wsd", "inverse_sqrt"], &[])
        .doc("How the learning rate falls after the warm-up. `linear` heads for 0 and stops at `min_lr`; `cosine` ends at `min_lr`; `exponential` halves over the run. `wsd` (warm-up, stable, decay) and `inverse_sqrt` are not in GPT-NeoX: the first stays at the peak until `wsd_decay_ratio` of the steps are left, the second is the peak × √(warm-up steps / step)."),
    float("wsd_decay_ratio").number(0.1).between(0.0, 1.0).ours().doc("The fraction of `lr_decay_iters` at their end in which `lr_decay_style: wsd` falls to `min_lr`."),
    word("wsd_decay_style", "linear", &["linear", "cosine", "1-sqrt"], &[]).ours().doc("How it falls there: along a line, half a cosine, or 1 − √x."),
    int("lr_decay_iters").between(1.0, 1e12).doc("Steps over which the learning rate falls. Without it `train_iters` × `lr_decay_fraction`."),
    float("lr_decay_fraction").between(0.0, 1.0).doc("The fraction of `train_iters` over which the learning rate falls; 1 if it is not given."),
    float("min_lr").number(0.0).between(0.0, 1e9).doc("The learning rate after the warm-up is never below this."),
    float("warmup").number(0.01).between(0.0, 1.0).doc("The fraction of the decay's steps in which the learning rate rises from 0."),
    flag("override_lr_scheduler", false).idle("a resumed run always takes the schedule of its own configuration")
        .doc("Resume with this configuration's schedule, not the checkpoint's."),
    flag("use_checkpoint_lr_scheduler", false).not_yet("a checkpoint does not hold the schedule", "give the schedule in the configuration")
        .doc("Resume with the checkpoint's schedule, not this configuration's."),
    float("weight_decay").number(0.1).between(0.0, 100.0).doc("Decoupled decay of weights; norms and biases do not decay. `optimizer.params.weight_decay` says it too, and wins."),
    float("clip_grad").number(1.0).between(0.0, 1e9).doc("As `gradient_clipping`, which wins."),
    float("gradient_clipping").number(1.0).between(0.0, 1e9).doc("Largest norm of all gradients together: beyond it they are scaled down. 0 is no limit."),
    dict("scheduler").not_yet("the learning rate follows `lr_decay_style`", "use `lr_decay_style`, `min_lr` and `warmup`").doc("DeepSpeed's schedule of the learning rate."),
];
