//! Arguments of generation and evaluation: here these are options of commands, not of a training run.

use super::{Argument, flag, float, int, list, text};

const OPTION: &str = "it is an option of `neoxc generate`, and a training run makes no text";
const NO_TASKS: &str = "a training run evaluates the loss only";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    text("text_gen_type").idle(OPTION).doc("Where prompts come from."),
    float("temperature").number(0.0).idle(OPTION).doc("Divides logits before sampling; 0 takes the likeliest token."),
    float("top_p").number(0.0).idle(OPTION).doc("Sample from the likeliest tokens that together have this probability."),
    int("top_k").number(0.0).idle(OPTION).doc("Sample from so many likeliest tokens."),
    flag("return_logits", false).idle(OPTION).doc("Return logits with the text."),
    int("maximum_tokens").number(64.0).idle(OPTION).doc("Tokens to make at most."),
    text("prompt_end").says("\n").idle(OPTION).doc("What ends a prompt."),
    text("sample_input_file").idle(OPTION).doc("File of prompts."),
    text("sample_output_file").says("samples.txt").idle(OPTION).doc("File that text is written to."),
    int("num_samples").number(1.0).idle(OPTION).doc("Texts to make."),
    flag("recompute", false).idle(OPTION).doc("Compute all tokens again for each new one, without kept keys and values."),
    text("eval_results_prefix").says("").idle(NO_TASKS).doc("How names of result files begin."),
    list("eval_tasks").idle(NO_TASKS).doc("Tasks of the evaluation harness."),
];
