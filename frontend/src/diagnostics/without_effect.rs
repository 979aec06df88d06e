//! NX0108: key without effect here.

use neoxc_ir::diag::Kind;

/// NX0108.
pub static KIND: Kind = Kind {
    code: "NX0108",
    title: "key without effect here",
    explanation: "The key is known and harmless: it chooses between implementations, launchers or loggers that a\ncompiled plan does not have, or nothing reads it in GPT-NeoX either. The run is the same without it.",
};
