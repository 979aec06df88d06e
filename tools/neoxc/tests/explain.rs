//! `neoxc explain` of codes, of arguments and of lints.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::process::Command;

/// Exit code, stdout and stderr of `neoxc explain WHAT`.
fn explain(what: &str) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_neoxc")).args(["explain", what]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn every_code_is_explained() {
    for kind in neoxc_base::codes::ALL {
        let (code, told, _) = explain(&kind.code.to_lowercase());
        assert_eq!(code, Some(0), "{}", kind.code);
        assert!(told.starts_with(&format!("{}: {}\n", kind.code, kind.title)), "{told}");
    }
    let (code, _, told) = explain("NX9999");
    assert!(code == Some(2) && told.contains("codes are NX0001, "), "{told}");
}

#[test]
fn an_argument_is_explained_in_either_spelling() {
    let (code, told, _) = explain("hidden-dropout");
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("hidden_dropout: The fraction"), "{told}");
    assert!(lines.contains(&"  value    a number, from 0 to below 1"), "{told}");
    assert!(lines.contains(&"  default  0") && lines.contains(&"  subject  Model"), "{told}");
    let (_, told, _) = explain("optimizer");
    assert!(
        told.contains("optimizer.params.eps: ") && told.contains("finite and at least 0"),
        "{told}"
    );
    let (_, told, _) = explain("param_groups");
    assert!(told.contains("param_groups.lr_scale: What the learning rate"), "{told}");
    let (_, told, _) = explain("use_qk_layernorm");
    let why =
        "Not yet (NX0104): GPT-NeoX normalises queries and keys with one weight for the heads";
    assert!(told.contains(why), "{told}");
    let (_, told, _) = explain("use_mup");
    assert!(told.contains("Not yet (NX0135): "), "{told}");
}

#[test]
fn every_lint_is_explained() {
    for lint in neoxc_frontend::lints::ALL {
        let (code, told, _) = explain(lint.name);
        assert_eq!(code, Some(0), "{}", lint.name);
        assert!(told.starts_with(lint.name) && told.contains(lint.text), "{told}");
    }
}

#[test]
fn a_misspelt_argument_is_told_its_neighbour() {
    let (code, _, told) = explain("seq-lenght");
    assert!(code == Some(2) && told.contains("did you mean `seq_length`?"), "{told}");
    let (code, _, told) = explain("éé");
    assert!(code == Some(2) && told.contains("docs/arguments.md"), "{told}");
}
