//! NX0137: online data are not there yet.

use crate::diag::{Example, Kind};

/// NX0137; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0137",
    title: "online data are not there yet",
    explanation: "\
A run reads its samples from files. Samples from a server, and weights for one while the run goes on, need a
protocol that neoxc does not have yet.

Leave these keys out, and write the samples to a data set: `neoxc data preprocess`.",
    example: Example::Config {
        wrong: "serve_model_weights: true",
        right: "serve_model_weights: false",
    },
    exit: 3,
};
