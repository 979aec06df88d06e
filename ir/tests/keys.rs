//! The declared attribute keys: the verifier holds modules to them, and the documents have them all.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_ir::{keys, text, verify};

/// What the verifier says of a module with these attributes, written in their places.
fn told(module: &str, function: &str, parameter: &str, op: &str) -> String {
    let source = format!(
        "module attributes {{{module}}} {{\n  func.func @f(%x: tensor<2xf32, {{dims = [\"a\"]}}> {{{parameter}}}) -> \
         tensor<2xf32, {{dims = [\"a\"]}}> attributes {{{function}}} {{\n    %0 = \"neox.neg\"(%x) {{{op}}} : \
         (tensor<2xf32, {{dims = [\"a\"]}}>) -> tensor<2xf32, {{dims = [\"a\"]}}>\n    return %0 : tensor<2xf32, \
         {{dims = [\"a\"]}}>\n  }}\n}}\n"
    );
    let module = text::parse(&source).unwrap_or_else(|e| panic!("{e}\n{source}"));
    verify(&module).map_or_else(|e| e.to_string(), |()| "fine".into())
}

#[test]
fn a_key_that_is_not_declared_is_refused_with_the_one_that_was_meant() {
    let place = r#"neox.place = ["io+0"]"#;
    assert_eq!(
        told(r#"neox.mesh = ["data=1"]"#, r#"neox.kernel = "rowwise""#, place, place),
        "fine"
    );
    for (said, module, function, parameter, op) in [
        (
            "@f op 0 (neox.neg, -): no attribute `neox.plcae` is declared for an op (ir/src/keys.rs); did you mean `neox.place`?",
            "",
            "",
            "",
            r#"neox.plcae = ["io+0"]"#,
        ),
        ("@f: no attribute `neox.kernle`", "", r#"neox.kernle = "rowwise""#, "", ""),
        ("@f: no attribute `neox.parma`", "", "", r#"neox.parma = "w""#, ""),
        ("the module: no attribute `neox.mseh`", r#"neox.mseh = ["data=1"]"#, "", "", ""),
        ("the module: no attribute `mesh`", r#"mesh = ["data=1"]"#, "", "", ""),
        (
            "`neox.place` is an attribute of a parameter or an op, not of a function",
            "",
            place,
            "",
            "",
        ),
        (
            "`neox.mesh` is an attribute of the module, not of a parameter",
            "",
            "",
            r#"neox.mesh = ["data=1"]"#,
            "",
        ),
        (
            "attribute `neox.arena` is \"much\", its type is Int",
            r#"neox.arena = "much""#,
            "",
            "",
            "",
        ),
    ] {
        let told = told(module, function, parameter, op);
        assert!(told.contains(said), "{told}\ninstead of\n{said}");
    }
}

#[test]
fn keys_are_declared_once_in_the_order_of_their_names() {
    let names: Vec<&str> = keys::ALL.iter().map(|k| k.name).collect();
    assert!(names.windows(2).all(|w| w[0] < w[1]), "{names:?}");
    assert!(keys::ALL.iter().all(|k| k.name.starts_with("neox.") && !k.on.is_empty()));
}

#[test]
fn the_page_of_attributes_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/attributes.md");
    let want = keys::markdown();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &want).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), want, "run with UPDATE=1");
}
