//! NX0111: value adjusted.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0111.
pub static KIND: Kind = Kind {
    code: "NX0111",
    title: "value adjusted",
    explanation: "\
The value asks for something that cannot be had exactly, and the nearest choice that gives the same
results is taken. For example, layers are recomputed in groups of equal size: when
`checkpoint_num_layers` does not divide `num_layers`, the next smaller divisor is used. Losses and
weights are the same; memory and time differ a little. Likewise tensor ranks that do not divide the
vocabulary evenly have all of it each.",
    example: Example::Config {
        wrong: "num_layers: 12\ncheckpoint_activations: true\ncheckpoint_num_layers: 5",
        right: "num_layers: 12\ncheckpoint_activations: true\ncheckpoint_num_layers: 4",
    },
    exit: 0,
};

/// Something else is done than what the keys at `places` ask for.
pub fn adjusted_value(message: &str, places: &[(Span, String)], hint: &str) -> Diagnostic {
    let d = Diagnostic::warning(&KIND, message);
    places.iter().fold(d, |d, (span, text)| d.label(span, text.as_str())).hint(hint)
}
