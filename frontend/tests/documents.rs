//! Pages that are made from the tables of arguments are what the tables say.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::Path;

use neoxc_frontend::arguments::{page, schema};
use neoxc_frontend::lints;
use neoxc_frontend::yaml::{Value, parse};

/// Compares a file of `docs/` with `made`, or writes it where NEOXC_BLESS is set.
fn is_current(name: &str, made: &str) {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("NEOXC_BLESS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        there == made,
        "docs/{name} is not current, from line {differs:?} on: NEOXC_BLESS=1 writes it"
    );
}

#[test]
fn the_page_of_arguments_is_current() {
    is_current("arguments.md", &page::page());
}

#[test]
fn the_page_of_lints_is_current() {
    is_current("lints.md", &lints::page());
}

#[test]
fn the_schema_for_editors_is_current_and_accepts_the_configurations_of_this_repository() {
    let schema = schema::schema();
    is_current("neoxc.schema.json", &format!("{schema:#}\n"));
    let properties = schema["properties"].as_object().unwrap();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("clusters") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "yml") {
                accepts(properties, &path);
                read += 1;
            }
        }
    }
    assert!(read > 3, "configurations were found");
}

/// Asserts that the schema has every key of a file, and every value that is one of several words.
fn accepts(properties: &serde_json::Map<String, serde_json::Value>, path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let (node, _) = parse(&"x".into(), &text).unwrap();
    let Value::Map(keys) = node.value else { panic!("{path:?}") };
    for (key, node) in keys {
        let property = properties.get(&key.name).unwrap_or_else(|| panic!("{}", key.name));
        let words = property["enum"].as_array();
        let value = node.value.json();
        assert!(words.is_none_or(|w| w.contains(&value)), "{path:?}: {} {value}", key.name);
    }
}
