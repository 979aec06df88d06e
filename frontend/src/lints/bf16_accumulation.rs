//! The lint `bf16-accumulation`.

use super::{Finding, Lint};
use crate::config::{Config, Precision};
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "bf16-accumulation",
    text: "\
With bf16, ZeRO from stage 1 on and no `data_types`, GPT-NeoX adds up the gradients of a step's micro-batches in
bf16, which loses what is smaller than a 256th of the sum. neoxc adds them up in f32.",
    wrong: "precision: bfloat16\ngradient_accumulation_steps: 8\nzero_optimization: {stage: 1}",
    right: "precision: bfloat16\ngradient_accumulation_steps: 8\nzero_optimization: {stage: 1}\ndata_types: {grad_accum_dtype: fp32}",
    check,
};

fn check(c: &Config, r: &Reader<'_>) -> Option<Finding> {
    let sums = c.run.grad_accum > 1 && c.parallel.zero_stage > 0;
    let told = r.find("data_types").is_some();
    (c.model.precision == Precision::Bf16 && sums && !told).then(|| Finding {
        message: format!(
            "GPT-NeoX adds up the gradients of {} micro-batches in bf16; here they are summed in f32",
            c.run.grad_accum
        ),
        keys: &["precision", "bf16", "fp16", "zero_optimization", "gradient_accumulation_steps"],
        hint: "`\"data_types\": {\"grad_accum_dtype\": \"fp32\"}` means the same in both".into(),
    })
}
