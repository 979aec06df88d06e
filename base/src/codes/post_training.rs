//! NX0136: training after pre-training is not there yet.

use crate::diag::{Example, Kind};

/// NX0136; [`super::not_supported::waits`] makes one.
pub static KIND: Kind = Kind {
    code: "NX0136",
    title: "training after pre-training is not there yet",
    explanation: "\
Losses of preferences (DPO, KTO), of a reward model and of rewards (REINFORCE), and the pairs, rewards and
reference models that they read, cannot be compiled yet. A run learns the next token.

Train with `train_impl: normal`, or hand the model on: `neoxc convert neox-to-hf` writes what libraries for
these losses read.",
    example: Example::Config {
        wrong: "train_impl: dpo",
        right: "train_impl: normal",
    },
    exit: 3,
};
