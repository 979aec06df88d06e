//! NX0110: file cannot be read.

use crate::diag::{Diagnostic, Example, Kind};

/// NX0110.
pub static KIND: Kind = Kind {
    code: "NX0110",
    title: "file cannot be read",
    explanation: "\
A configuration, cluster or tokenizer file does not exist or cannot be read. `.yml` may be left out of
configuration names; `-d DIR` names the folder they are in.",
    example: Example::Session(
        "\
$ neoxc check no-such-file
error[NX0110]: cannot read no-such-file.yml: No such file or directory (os error 2)
  = hint: `-d DIR` names the folder of configuration files",
    ),
    exit: 3,
};

/// The file called `name` cannot be read, for the reason `why`.
pub fn unreadable(name: &str, why: &str, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("cannot read {name}: {why}")).hint(hint)
}
