//! NX0132: gMLP layers are not there yet.

use crate::diag::{Example, Kind};

/// NX0132; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0132",
    title: "gMLP layers are not there yet",
    explanation: "\
Layers of the kinds `gmlp` and `amlp` (spatial gates, arXiv 2105.08050) cannot be built yet. GPT-NeoX's own
have no residual, never add their biases, and run only where the micro-batch is as long as the sequence.

Use attention: leave these keys out, with `attention_config: [[[\"flash\"], \"all\"]]`.",
    example: Example::Config {
        wrong: "attention_config: [[[\"gmlp\"], 2]]",
        right: "attention_config: [[[\"flash\"], 2]]",
    },
    exit: 3,
};
