//! NX0131: RWKV layers are not there yet.

use crate::diag::{Example, Kind};

/// NX0131; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0131",
    title: "RWKV layers are not there yet",
    explanation: "\
Layers of the kind `rwkv` (time mix and channel mix, version 6) cannot be built yet, so keys about them ask
for nothing that could be given. GPT-NeoX's own RWKV layers recur over the micro-batch, not over time.

Use attention: leave these keys out, with `attention_config: [[[\"flash\"], \"all\"]]`.",
    example: Example::Config {
        wrong: "attention_config: [[[\"rwkv\"], 2]]",
        right: "attention_config: [[[\"flash\"], 2]]",
    },
    exit: 3,
};
