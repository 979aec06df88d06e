//! NX0135: the maximal-update parametrisation is not there yet.

use crate::diag::{Example, Kind};

/// NX0135; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0135",
    title: "the maximal-update parametrisation is not there yet",
    explanation: "\
Start values, learning rates and scales that follow the width (muP, arXiv 2203.03466) cannot be compiled yet.
What GPT-NeoX runs under `use_mup` is neither muP nor the standard parametrisation: embeddings, attention
scores and an untied head are not scaled, and rates only until the first step of their schedule.

Use the standard parametrisation: leave these keys out.",
    example: Example::Config {
        wrong: "use_mup: true",
        right: "use_mup: false",
    },
    exit: 3,
};
