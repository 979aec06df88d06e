//! NX0134: Transformer Engine's layers and fp8 are not there yet.

use crate::diag::{Example, Kind};

/// NX0134; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0134",
    title: "Transformer Engine's layers and fp8 are not there yet",
    explanation: "\
`te_layernorm_mlp` and `te_mha` are other layers than GPT-NeoX's: they always have biases, their epsilon is
fixed, and a gated MLP has the full `intermediate_size`. fp8 is computed by no target yet; in GPT-NeoX
`te_fp8_mha`, the only key that asks for it, ends in an error.

Use the plain layers, and `precision: bfloat16`.",
    example: Example::Config {
        wrong: "te_mha: true",
        right: "te_mha: false",
    },
    exit: 3,
};
