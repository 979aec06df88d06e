//! NX0106: impossible value.

use neoxc_ir::diag::Kind;

/// NX0106.
pub static KIND: Kind = Kind {
    code: "NX0106",
    title: "impossible value",
    explanation: "The value is of the right type but cannot be meant: zero layers, a negative size, a fraction\nabove one.\n\nThe message names the range.",
};
