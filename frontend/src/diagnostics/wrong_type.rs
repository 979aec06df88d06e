//! NX0102: value of the wrong type.

use neoxc_ir::diag::Kind;

/// NX0102.
pub static KIND: Kind = Kind {
    code: "NX0102",
    title: "value of the wrong type",
    explanation: "The value is not of the argument's type. Files are read as PyYAML reads YAML 1.1, where `1e-4`\nis text: a float needs a dot (`1.0e-4`). `True`, `yes` and `on` are truth values.\n\nWrite a value of the type that the message names.",
};
