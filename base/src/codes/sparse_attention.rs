//! NX0133: block-sparse attention is not there yet.

use crate::diag::{Example, Kind};

/// NX0133; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0133",
    title: "block-sparse attention is not there yet",
    explanation: "\
DeepSpeed's patterns of blocks (`local`, `sparse_fixed`, `sparse_variable`, `bigbird`, `bslongformer`) cannot
be compiled yet. In GPT-NeoX they fail as well: its pinned DeepSpeed does not take what it is given.

Use attention over all tokens before: `attention_config: [[[\"flash\"], \"all\"]]`, without `sparsity_config`.",
    example: Example::Config {
        wrong: "attention_config: [[[\"local\", \"global\"], \"all\"]]",
        right: "attention_config: [[[\"global\"], \"all\"]]",
    },
    exit: 3,
};
