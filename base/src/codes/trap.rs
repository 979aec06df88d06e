//! NX0115: trap of GPT-NeoX.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0115.
pub static KIND: Kind = Kind {
    code: "NX0115",
    title: "trap of GPT-NeoX",
    explanation: "\
The configuration is one that GPT-NeoX is known to take in another way than it reads, or that often means
something else than what was wanted. neoxc does what the configuration says; the warning tells the
difference, which matters to those who compare a run with GPT-NeoX's or go on from its checkpoints.

Each trap is a lint with a name, in brackets at the end of the message: `neoxc explain NAME` tells of it, and
docs/lints.md lists all of them.",
    example: Example::Config {
        wrong: "lr_decay_style: cosine\nlr_decay_iters: 5",
        right: "lr_decay_style: cosine\nlr_decay_iters: 10",
    },
    exit: 0,
};

/// The lint `name` found `message`; the places are those of the keys that make it.
pub fn trap(name: &str, message: &str, places: &[(Span, String)], hint: &str) -> Diagnostic {
    let d = Diagnostic::warning(&KIND, format!("{message} [{name}]"));
    places.iter().fold(d, |d, (span, text)| d.label(span, text.as_str())).hint(hint)
}
