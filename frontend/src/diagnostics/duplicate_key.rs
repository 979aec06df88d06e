//! NX0103: key given twice.

use neoxc_ir::diag::Kind;

/// NX0103.
pub static KIND: Kind = Kind {
    code: "NX0103",
    title: "key given twice",
    explanation: "A key may be given once, over all files together, whether written with `-` or `_`. GPT-NeoX\nrefuses a key in two files, but lets the second one win within a file; here both are errors.\n\nKeep one of the two, or override on the command line with `--set KEY=VALUE`.",
};
