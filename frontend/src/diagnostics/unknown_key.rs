//! NX0101: unknown key.

use neoxc_ir::diag::Kind;

/// NX0101.
pub static KIND: Kind = Kind {
    code: "NX0101",
    title: "unknown key",
    explanation: "The key is not an argument of GPT-NeoX. Unknown keys are errors, because a misspelt one would\notherwise leave its default in force for a whole training run.\n\nCheck the spelling; `-` and `_` are the same in key names.",
};
