//! NX0110: file cannot be read.

use neoxc_ir::diag::Kind;

/// NX0110.
pub static KIND: Kind = Kind {
    code: "NX0110",
    title: "file cannot be read",
    explanation: "A configuration or tokenizer file does not exist or cannot be read. `.yml` may be left out of\nconfiguration names; `-d DIR` names the folder they are in.",
};
