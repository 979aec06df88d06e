//! Several files into one mapping, by NeoX's rules, and `--set` on top.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use neoxc_base::codes::{duplicate_key, file, overridden_place, syntax};
use neoxc_base::diag::{Diagnostic, Sources, Span};
use neoxc_base::read;

use crate::yaml::{Key, Node, TOLD, Value, parse};

/// All keys of all files with their values.
pub type Merged = Vec<(Key, Node)>;

/// The file that `path` names, in `dir` if that is given; `.yml` may be left out.
pub fn resolve(path: &Path, dir: Option<&Path>) -> PathBuf {
    let path = dir.map_or_else(|| path.to_path_buf(), |d| d.join(path));
    if path.is_file()
        || matches!(path.extension().and_then(|e| e.to_str()), Some("yml" | "yaml" | "json"))
    {
        return path;
    }
    let mut name = path.into_os_string();
    name.push(".yml");
    name.into()
}

/// Reads and merges; problems go to `diagnostics`.
pub fn merge(
    files: &[PathBuf],
    dir: Option<&Path>,
    sets: &[String],
    sources: &mut Sources,
    diagnostics: &mut Vec<Diagnostic>,
) -> Merged {
    let mut merged: Merged = vec![];
    let mut known: HashMap<String, usize> = HashMap::new();
    let overridden = whole_keys(sets);
    for path in files {
        let path = resolve(path, dir);
        let name = path.display().to_string();
        let text = match read::text(&path, read::SETTINGS) {
            Ok(text) => text,
            Err(e) => {
                let hint = "`-d DIR` names the folder of configuration files";
                diagnostics.push(file::unreadable(&name, &e.to_string(), hint));
                continue;
            }
        };
        let source = sources.add(&name, &text);
        match parse(&source, &text) {
            Err(d) => diagnostics.push(d),
            Ok((node, mut found)) => {
                diagnostics.append(&mut found);
                let pairs = match node.value {
                    Value::Map(pairs) => pairs,
                    Value::Null => vec![],
                    other => {
                        let message =
                            format!("{name} holds {}, not keys and values", other.describe());
                        diagnostics.push(syntax::syntax(&message, &node.span, "here"));
                        continue;
                    }
                };
                join(&mut merged, &mut known, pairs, &overridden, diagnostics);
            }
        }
    }
    for set in sets {
        apply(&mut merged, set, sources, diagnostics);
    }
    merged
}

/// Keys that say where something lies on a machine: a later file may give them again.
const PLACES: [&str; 15] = [
    "data_path",
    "train_data_paths",
    "valid_data_paths",
    "test_data_paths",
    "train_label_data_paths",
    "valid_label_data_paths",
    "test_label_data_paths",
    "vocab_file",
    "merge_file",
    "save",
    "load",
    "log_dir",
    "tensorboard_dir",
    "hostfile",
    "s3_path",
];

/// Adds the keys of one more file. A key that is there already is a conflict, unless `--set` gives it or it says where
/// something lies. `known` has the number of each key.
fn join(
    merged: &mut Merged,
    known: &mut HashMap<String, usize>,
    pairs: Vec<(Key, Node)>,
    overridden: &[String],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut moved: Vec<(Key, Key)> = vec![];
    let mut twice: Vec<(Key, Span)> = vec![];
    for (key, value) in pairs {
        match known.get(&key.name).map(|n| &mut merged[*n]) {
            Some(_) if overridden.contains(&key.name) => {}
            Some((first, old)) if PLACES.contains(&key.name.as_str()) => {
                if old.value != value.value {
                    moved.push((first.clone(), key.clone()));
                }
                (*first, *old) = (key, value);
            }
            Some((first, _)) => twice.push((key, first.span.clone())),
            None => {
                known.insert(key.name.clone(), merged.len());
                merged.push((key, value));
            }
        }
    }
    for (key, first) in twice.iter().take(TOLD) {
        let hint = format!("keep one, or override with `--set {}=…`", key.name);
        let how = "in two files";
        diagnostics.push(duplicate_key::duplicate_key(&key.name, how, first, &key.span, &hint));
    }
    if let Some((key, _)) = twice.get(TOLD) {
        let message = format!("{} more keys are given in two files", twice.len() - TOLD);
        diagnostics.push(duplicate_key::more(&message, &key.span));
    }
    if let Some((first, again)) = moved.first() {
        let names: Vec<&str> = moved.iter().map(|(_, k)| k.name.as_str()).collect();
        diagnostics.push(overridden_place::overridden_place(&names, &first.span, &again.span));
    }
}

/// The keys that `--set` gives as a whole: which of several files is right about them does not matter then.
fn whole_keys(sets: &[String]) -> Vec<String> {
    let keys = sets.iter().filter_map(|s| s.split_once('='));
    keys.map(|(key, _)| key.trim().replace('-', "_")).filter(|key| !key.contains('.')).collect()
}

fn apply(merged: &mut Merged, set: &str, sources: &mut Sources, diagnostics: &mut Vec<Diagnostic>) {
    // Each override is a little file of its own, so that diagnostics can point into it.
    let name = sources.add(&format!("--set {set}"), set);
    let span = |start: usize, length: usize| Span {
        file: name.clone(),
        line: 1,
        column: start as u32 + 1,
        length: length.max(1) as u32,
    };
    let Some((key, text)) = set.split_once('=') else {
        let message = format!("`--set {set}` is not KEY=VALUE");
        diagnostics.push(syntax::syntax(&message, &span(0, set.chars().count()), "no `=` here"));
        return;
    };
    let at = key.chars().count() + 1;
    let mut node = match parse(&name, text) {
        Ok((node, _)) => node,
        Err(d) => {
            diagnostics.push(d);
            return;
        }
    };
    shift(&mut node, at as u32);
    node.span = span(at, text.chars().count());
    let parts: Vec<String> = key.trim().split('.').map(|p| p.replace('-', "_")).collect();
    insert(merged, &parts, node, &span(0, key.chars().count()));
}

/// Moves the places in a value of `--set` behind its key, which was not read with it.
fn shift(node: &mut Node, columns: u32) {
    let move_span = |span: &mut Span| {
        if span.line == 1 {
            span.column += columns;
        }
    };
    move_span(&mut node.span);
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(|n| shift(n, columns)),
        Value::Map(pairs) => {
            for (key, value) in pairs {
                move_span(&mut key.span);
                shift(value, columns);
            }
        }
        _ => {}
    }
}

fn insert(map: &mut Merged, parts: &[String], node: Node, at: &Span) {
    let [first, rest @ ..] = parts else { return };
    let slot = match map.iter().position(|(k, _)| k.name == *first) {
        Some(i) => i,
        None => {
            let empty = Node { span: node.span.clone(), value: Value::Map(vec![]) };
            map.push((Key { name: first.clone(), span: at.clone() }, empty));
            map.len() - 1
        }
    };
    let (key, value) = &mut map[slot];
    if rest.is_empty() {
        key.span = at.clone();
        *value = node;
        return;
    }
    if !matches!(value.value, Value::Map(_)) {
        value.value = Value::Map(vec![]);
    }
    if let Value::Map(inner) = &mut value.value {
        insert(inner, rest, node, at);
    }
}
