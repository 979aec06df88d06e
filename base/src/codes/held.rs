//! NXR0003: another run saves in the folder.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0003.
pub static KIND: Kind = Kind {
    code: "NXR0003",
    title: "another run saves in the folder",
    explanation: "\
A folder of checkpoints belongs to one run at a time: two that save in it would remove and mix each
other's. The run that has it holds a lock on the file `.lock` there, which names it; the lock ends with
that process, however it ends, and holds between hosts and containers that share the folder.

Wait for that run, end it, or give --save another folder.",
    example: Example::Session(
        "\
$ neoxc run --plan plan --save checkpoints
error[NXR0003]: checkpoints is in use: process 4711 on node-3 saves there
  = hint: wait until that run is over, end it, or give --save another folder",
    ),
    exit: 5,
};

/// The run called `owner` saves in `folder`.
pub fn held(folder: &dyn Display, owner: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{folder} is in use: {owner} saves there"))
        .hint("wait until that run is over, end it, or give --save another folder")
}
