//! Keys inside dictionaries that this version reads, under names with dots.

use super::{Argument, Kind, Preset, argument, flag, float, int, list, text};

/// Loss scales that an f32 holds with room for what it multiplies.
const LEAST_SCALE: f64 = 5.421_010_862_427_522e-20; // 2^-64
const MOST_SCALE: f64 = 18_446_744_073_709_551_616.0; // 2^64

#[rustfmt::skip] // a table: a key begins a line
/// Keys of `optimizer`, `zero_optimization`, `fp16`, `bf16` and `data_types`.
pub static NESTED: &[Argument] = &[
    text("optimizer.type").says("Adam").doc("The optimizer's name, in any case."),
    argument("optimizer.params", Kind::Dict, Preset::Null).doc("The optimizer's numbers."),
    float("optimizer.params.lr").below(0.0, f64::INFINITY).doc("Peak learning rate."),
    list("optimizer.params.betas").below(0.0, 1.0).doc("Two decay rates of the moments, each from 0 to below 1; 0.9 and 0.999 without it (Lion: 0.99)."),
    float("optimizer.params.eps").number(1e-8).below(0.0, f64::INFINITY).doc("Added to the root of the second moment."),
    float("optimizer.params.weight_decay").between(0.0, 100.0).doc("As `weight_decay`."),
    float("optimizer.params.momentum").number(0.0).below(0.0, 1.0).doc("What a step of SGD keeps of the momentum; 0 keeps none, and no state."),
    float("optimizer.params.dampening").number(0.0).between(0.0, 1.0).doc("What SGD's momentum does not take of the gradient, from the second step on."),
    flag("optimizer.params.nesterov", false).doc("Whether SGD uses Nesterov's momentum."),
    int("zero_optimization.stage").number(0.0).between(0.0, 3.0).doc("What data ranks divide: nothing (0), optimizer state (1), sums of gradients too (2), weights too (3)."),
    flag("fp16.enabled", false).doc("Whether the dictionary counts."),
    flag("fp16.fp16", false).doc("As `enabled`, which wins."),
    text("fp16.type").says("fp16").doc("`fp16`, or `bfloat16`, which makes it bf16 training."),
    float("fp16.loss_scale").number(0.0).between(0.0, MOST_SCALE).doc("A fixed loss scale; 0 for one that follows overflows."),
    int("fp16.initial_scale_power").number(16.0).between(0.0, 64.0).doc("The first loss scale is 2 to this power."),
    int("fp16.loss_scale_window").number(1000.0).between(1.0, 1e12).doc("The loss scale doubles after so many steps without an overflow."),
    int("fp16.hysteresis").number(2.0).between(1.0, 1e9).doc("With ZeRO 1 to 3: from this many overflows on each one divides the loss scale by 2. Without ZeRO the first one does, as in DeepSpeed."),
    flag("fp16.consecutive_hysteresis", false).doc("With ZeRO 1 to 3: whether only overflows of neighbouring steps count together."),
    float("fp16.min_loss_scale").number(1.0).below(LEAST_SCALE, MOST_SCALE).doc("The loss scale does not fall below this. An overflow there ends the run with ZeRO 1 to 3, and is skipped without, as in DeepSpeed."),
    flag("bf16.enabled", false).doc("Whether the dictionary counts."),
    text("data_types.grad_accum_dtype").says("fp32").doc("Dtype of sums of gradients: `fp32`."),
];
