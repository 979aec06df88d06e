//! NX0206: a module whose text cannot be read.

use std::fmt::Display;
use std::sync::Arc;

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0206.
pub static KIND: Kind = Kind {
    code: "NX0206",
    title: "a module whose text cannot be read",
    explanation: "\
`neoxc opt` and `neoxc compile --from` read modules in the text form of docs/ir.md, as `neoxc dump` prints
them. The text is no module, its ops break the rules of docs/ops.md, or the settings at its head
(`neox.settings`) are none. The message says what was found; nothing has run.",
    example: Example::Session(
        "\
$ neoxc opt damaged.mlir --passes fuse-kernels
error[NX0206]: damaged.mlir is no module: expected `%name` but the text ends
 --> damaged.mlir:1:23
  |
1 | module { func.func @f(
  |                       ^ here
  = hint: `neoxc dump --plan PLAN --phase PHASE` prints a module that can be read",
    ),
    exit: 3,
};

const HINT: &str = "`neoxc dump --plan PLAN --phase PHASE` prints a module that can be read";

/// The text of `file` is no module: at line `line` and column `column` it is as `why` says.
pub fn syntax(file: &str, line: u32, column: u32, why: &str) -> Diagnostic {
    let span = Span { file: Arc::from(file), line, column, length: 1 };
    Diagnostic::error(&KIND, format!("{file} is no module: {why}")).label(&span, "here").hint(HINT)
}

/// The module of `file` breaks a rule of the IR, as `why` says.
pub fn invalid(file: &str, why: &dyn Display) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{file} has a module that is not valid: {why}")).hint(HINT)
}

/// The settings at the head of the module of `file` are none, as `why` says.
pub fn settings(file: &str, why: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{file}: `neox.settings` cannot be read: {why}"))
        .hint("leave the head of the module as `neoxc dump` printed it, and give `--set KEY=VALUE`")
}
