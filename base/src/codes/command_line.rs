//! NX0211: the command line lacks something, or has something that the command does not take.

use crate::diag::{Diagnostic, Example, Kind};

/// NX0211.
pub static KIND: Kind = Kind {
    code: "NX0211",
    title: "the command line is incomplete or cannot be read",
    explanation: "\
The command needs an argument that was not given, or was given one that it does not take or cannot read.
Nothing has run. `neoxc COMMAND --help` lists the arguments of a command with their values and defaults.",
    example: Example::Session(
        "\
$ neoxc generate --prompt Once
error[NX0211]: nothing says which model makes the text
  = hint: give --plan PLAN or --checkpoint FOLDER",
    ),
    exit: 2,
};

/// The command cannot run, because `why`; `hint` names arguments that would do.
pub fn incomplete(why: &str, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, why).hint(hint)
}

/// The text of the parser of command lines with the code behind its first word, coloured or not. Help, which begins with
/// another word, stays as it is.
pub fn coded(text: &str) -> String {
    match text.split_once("error:") {
        Some((before, after)) if before.chars().all(|c| !c.is_alphabetic() || c == 'm') => {
            format!("{before}error[{}]:{after}", KIND.code)
        }
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_have_a_code() {
        assert_eq!(coded("error: no `x`"), "error[NX0211]: no `x`");
        let coloured = "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m no `x`";
        assert_eq!(coded(coloured), "\u{1b}[1m\u{1b}[31merror[NX0211]:\u{1b}[0m no `x`");
        assert_eq!(coded("A compiler. Its error: none"), "A compiler. Its error: none");
    }
}
