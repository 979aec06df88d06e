//! NX0130: Mamba layers are not there yet.

use crate::diag::{Example, Kind};

/// NX0130; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0130",
    title: "Mamba layers are not there yet",
    explanation: "\
Layers of the kind `mamba` (selective state spaces, arXiv 2312.00752) cannot be built yet, so keys about
them ask for nothing that could be given. GPT-NeoX's own Mamba layers cannot run in bf16 or evaluate.

Use attention: leave these keys out, with `attention_config: [[[\"flash\"], \"all\"]]`.",
    example: Example::Config {
        wrong: "attention_config: [[[\"mamba\"], 2]]",
        right: "attention_config: [[[\"flash\"], 2]]",
    },
    exit: 3,
};
