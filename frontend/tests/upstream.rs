//! The answers to the files that GPT-NeoX's users have, alone and in the pairs that GPT-NeoX's README shows: a snapshot
//! that a person can read, so that progress and its reverse are visible.
//!
//! The files are no part of this repository. Where they are absent the test skips and says so.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use neoxc_base::diag::Severity;
use neoxc_frontend::{Loaded, load};

/// Below the files' folder.
const FOLDERS: [&str; 2] = ["configs", "post-training"];

fn walk(dir: &Path, root: &Path, out: &mut Vec<String>) {
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        match e.path().is_dir() {
            true => walk(&e.path(), root, out),
            false => out.push(e.path().strip_prefix(root).unwrap().display().to_string()),
        }
    }
    out.sort();
}

/// What a file is given together with: a model without a run gets one, and a run without places gets those; what is
/// neither gets a model.
fn companions(file: &str, text: &str) -> Vec<String> {
    let has = |key: &str| text.contains(key) || text.contains(&key.replace('_', "-"));
    let names = |list: &[&str]| list.iter().map(|f| format!("configs/{f}")).collect();
    let (model, run) = (has("\"num_layers\""), has("\"optimizer\""));
    match (model, run) {
        _ if file.starts_with("post-training") => vec![],
        (true, true) => names(&["local_setup.yml"]),
        (true, false) => names(&["llama/train_config.yml", "local_setup.yml"]),
        (false, true) => names(&["llama/7B.yml", "local_setup.yml"]),
        _ if has("\"vocab_file\"") => names(&["125M.yml"]),
        _ => names(&["125M.yml", "local_setup.yml"]),
    }
}

/// A line for the exit code, and one for each diagnostic.
fn answer(l: &Loaded, root: &str) -> String {
    let errors = l.diagnostics.iter().filter(|d| d.severity == Severity::Error);
    let exit = errors.map(|d| d.kind.exit).max().unwrap_or(0);
    let mut out = format!("exit {exit}\n");
    for d in &l.diagnostics {
        let severity = if d.severity == Severity::Error { "error" } else { "warning" };
        let _ = writeln!(out, "  {severity} {} {}", d.kind.code, d.message.replace(root, ""));
    }
    out
}

#[test]
fn the_answers_to_upstreams_files_are_those_of_the_snapshot() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/upstream");
    if !root.exists() {
        eprintln!("skipped: the files of GPT-NeoX's users are not here");
        return;
    }
    let mut files = vec![];
    for folder in FOLDERS {
        walk(&root.join(folder), &root, &mut files);
    }
    let base = format!("{}/", root.display());
    let mut answers = BTreeMap::new();
    for file in &files {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let with = companions(file, &text);
        let mut together: Vec<PathBuf> = vec![file.into()];
        if !with.is_empty() {
            together.splice(1..1, with.iter().filter(|f| *f != file).map(PathBuf::from));
        }
        for names in [vec![PathBuf::from(file)], together] {
            let shown: Vec<String> = names.iter().map(|n| n.display().to_string()).collect();
            let l = load(&names, Some(&root), &[]);
            assert_eq!(l.config.is_none(), answer(&l, &base).starts_with("exit 3"), "{shown:?}");
            answers.insert(shown.join(" "), answer(&l, &base));
        }
    }
    let good = |a: &&String| a.starts_with("exit 0");
    let (alone, pairs): (Vec<_>, Vec<_>) = answers.iter().partition(|(k, _)| !k.contains(' '));
    let count = |of: &[(&String, &String)]| of.iter().filter(|(_, a)| good(a)).count();
    let mut page = format!(
        "{} of {} files pass alone, {} of {} with what they are used with.\n",
        count(&alone),
        alone.len(),
        count(&pairs),
        pairs.len()
    );
    for (names, answer) in &answers {
        let _ = write!(page, "\n{names}: {answer}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/upstream.txt");
    if std::env::var_os("NEOXC_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = there.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert!(there == page, "{differs:?}: NEOXC_BLESS=1 writes it; read the difference");
}
