//! NX0107: values contradict each other.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0107.
pub static KIND: Kind = Kind {
    code: "NX0107",
    title: "values contradict each other",
    explanation: "\
Two values cannot both hold, such as a hidden size that the number of heads does not divide, or batch
sizes that do not multiply up. Both places are shown.

Change one of them.",
    example: Example::Config {
        wrong: "hidden_size: 9\nnum_attention_heads: 2",
        right: "hidden_size: 8\nnum_attention_heads: 2",
    },
    exit: 3,
};

/// What the keys at `places` say cannot all hold; each place comes with what it says.
pub fn conflict(message: &str, places: &[(Span, String)], hint: &str) -> Diagnostic {
    let d = Diagnostic::error(&KIND, message);
    places.iter().fold(d, |d, (span, text)| d.label(span, text.as_str())).hint(hint)
}
