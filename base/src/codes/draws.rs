//! NXR0302: a checkpoint's run drew other samples or dropout.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0302.
pub static KIND: Kind = Kind {
    code: "NXR0302",
    title: "a checkpoint's run drew other samples or dropout",
    explanation: "\
With --resume, the seed, `seq_length`, dropout, or the training data (its files, the documents that
`split` gives, the epochs that `train_iters` and the batch make of them, which are shuffled together)
differ from those of the run that wrote the checkpoint: samples would be seen twice or not at all. The
message names each key that differs. If that is meant, --allow-changes goes on and only warns.",
    example: Example::Session(
        "\
$ neoxc run model.yml --set seed=2 --resume
error[NXR0302]: ck/global_step4: the run that wrote this drew other samples or dropout: seed was 1 and is 2
  = hint: resume with the configuration that wrote it, or give --allow-changes to go on with other samples",
    ),
    exit: 3,
};

/// The run that wrote the checkpoint at `path` drew otherwise; `what` names keys, what they gave and give.
pub fn draws(path: &dyn Display, what: &str) -> Diagnostic {
    let message = format!("{path}: the run that wrote this drew other samples or dropout: {what}");
    Diagnostic::error(&KIND, message).hint(
        "resume with the configuration that wrote it, or give --allow-changes to go on with other samples",
    )
}
