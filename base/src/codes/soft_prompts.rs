//! NX0138: soft prompts are not there yet.

use crate::diag::{Example, Kind};

/// NX0138; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0138",
    title: "soft prompts are not there yet",
    explanation: "\
A few embeddings that are put before each sequence, and trained alone, cannot be compiled yet. In GPT-NeoX the
key ends in an error whatever its values.

Leave `soft_prompt_tuning` out: all parameters are trained.",
    example: Example::Config {
        wrong: "soft_prompt_tuning: {enabled: true, num_tokens: 10}",
        right: "soft_prompt_tuning: {enabled: false}",
    },
    exit: 3,
};
