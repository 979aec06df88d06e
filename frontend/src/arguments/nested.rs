//! Keys inside dictionaries that this version reads, under names with dots.

use super::{Argument, Kind, Preset, argument, flag, float, int, list, text};

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
    text("fp16.type").doc("`bfloat16` makes it bf16 training; without it fp16, which is not supported yet."),
    flag("bf16.enabled", false).doc("Whether the dictionary counts."),
    text("data_types.grad_accum_dtype").says("fp32").doc("Dtype of sums of gradients: `fp32`."),
];
