//! Who may import whom: the arrows of `docs/architecture.md`, and the tidiness of the tree.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::{Path, PathBuf};

/// Crate folder → the crates of ours that it may depend on, outside tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &[]),
    ("ir", &["neoxc-base"]),
    ("optimizers", &["neoxc-ir"]),
    ("frontend", &["neoxc-base", "neoxc-config", "neoxc-ir", "neoxc-optimizers"]),
    ("stdlib-models", &["neoxc-config", "neoxc-ir"]),
    ("passes", &["neoxc-base", "neoxc-config", "neoxc-ir", "neoxc-optimizers"]),
    ("codegen", &["neoxc-ir", "neoxc-plan"]),
    ("runtime/plan", &["neoxc-base"]),
    // It reads what codegen writes: what both knew would be checked by nobody.
    ("runtime/sim", &[]),
    ("runtime", &["neoxc-base", "neoxc-config", "neoxc-plan"]),
    (
        "tools/driver",
        &[
            "neoxc-base",
            "neoxc-config",
            "neoxc-ir",
            "neoxc-frontend",
            "neoxc-models",
            "neoxc-passes",
            "neoxc-codegen",
            "neoxc-plan",
        ],
    ),
    ("fuzz", &["neoxc-frontend", "neoxc-plan", "neoxc-runtime"]),
    (
        "tools/neoxc",
        &[
            "neoxc-base",
            "neoxc-driver",
            "neoxc-runtime",
            "neoxc-ir",
            "neoxc-frontend",
            "neoxc-plan",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

#[test]
fn crates_import_only_what_they_may() {
    for (folder, allowed) in ARROWS {
        let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let normal = text.split("[dev-dependencies]").next().unwrap();
        for line in normal.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            if name.starts_with("neoxc-") {
                assert!(allowed.contains(&name), "{folder} depends on {name}");
            }
        }
        let compiler = ["melior", "mlir-sys", "inkwell", "egg"];
        if folder.starts_with("runtime") {
            assert!(
                compiler.iter().all(|c| !normal.contains(c)),
                "{folder} depends on the compiler"
            );
        }
    }
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        let path = e.path();
        let name = e.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, out);
        } else if name.ends_with(".rs") {
            out.push(path);
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut files = vec![];
    sources(&root(), &mut files);
    assert!(files.len() > 80, "the walk found the tree");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= 800, "{} is too long", path.display());
        assert!(text.starts_with("//!"), "{} does not open with its purpose", path.display());
    }
}

/// A key is a constant of `ir/src/keys.rs`: written out a second time it could be misspelt.
#[test]
fn attribute_keys_are_written_once() {
    let mut files = vec![];
    sources(&root(), &mut files);
    let is_ours = |p: &PathBuf| p.components().any(|c| c.as_os_str() == "src");
    for path in files.iter().filter(|p| is_ours(p) && !p.ends_with("ir/src/keys.rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        for key in neoxc_ir::keys::ALL {
            let literal = format!("{:?}", key.name);
            assert!(!text.contains(&literal), "{} writes {literal} out", path.display());
        }
    }
}

/// Names of optimizers and of what they keep stand in their own files: everything that reads their declarations works
/// for the next one as well.
#[test]
fn passes_kernels_and_runtime_know_no_optimizer() {
    let all = neoxc_optimizers::ALL.iter();
    let names: Vec<&str> = all.clone().flat_map(|o| o.names).copied().collect();
    let slots: Vec<&str> = all.flat_map(|o| o.slots).map(|s| s.name).collect();
    let told = |word: &str| {
        slots.iter().any(|s| word.contains(s)) || word.split('_').any(|part| names.contains(&part))
    };
    // The test can fail.
    assert!(["adam_m", "exp_avg.w", "Lion"].iter().all(|w| told(&w.to_lowercase())));
    assert!(!told("million"));
    for folder in ["passes/src", "codegen/src", "runtime/src", "runtime/plan/src"] {
        let mut files = vec![];
        sources(&root().join(folder), &mut files);
        assert!(files.len() > 10, "the walk found {folder}");
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let found = words.find(|w| told(w));
            assert_eq!(found, None, "{} names an optimizer", path.display());
        }
    }
}

/// `NX0101` and the like in `text`.
fn codes_in(text: &str) -> Vec<String> {
    let mut out = vec![];
    for (at, _) in text.match_indices("NX") {
        let rest = &text[at + 2..];
        let number = rest.strip_prefix('R').unwrap_or(rest);
        let digits = number.chars().take_while(char::is_ascii_digit).count();
        if digits == 4 {
            out.push(text[at..at + 2 + rest.len() - number.len() + 4].to_string());
        }
    }
    out
}

/// Every code that a source, a test or a page names is declared, and every one that is declared is told.
#[test]
fn every_code_has_a_file_and_a_use() {
    assert_eq!(codes_in("error[NXR0404]: NX12, NX01011 (NX0101)"), ["NXR0404", "NX0101"]);
    let mut files = vec![];
    sources(&root(), &mut files);
    let folder = root().join("base/src/codes");
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let outside: String = files.iter().filter(|p| !p.starts_with(&folder)).map(read).collect();
    for code in codes_in(&outside).iter().filter(|c| *c != "NX9999") {
        assert!(neoxc_base::codes::find(code).is_some(), "{code} is in no file of base/src/codes");
    }
    let mut modules = 0;
    for path in files.iter().filter(|p| p.starts_with(&folder) && !p.ends_with("mod.rs")) {
        let module = path.file_stem().unwrap().to_string_lossy();
        assert!(outside.contains(&format!("{module}::")), "nothing tells of {module}");
        modules += 1;
    }
    assert_eq!(modules, neoxc_base::codes::ALL.len());
}

/// Files that somebody else wrote are read by `neoxc_base::read`, which looks at their kind and size first. What the
/// program reads otherwise are files of the system, and lines of a stream.
#[test]
fn files_are_read_in_one_way() {
    let mut files = vec![];
    sources(&root(), &mut files);
    let ways = ["fs::read(", "fs::read_to_string(", "File::open(", "Mmap::map("];
    // Files of the system, and folders that are synced.
    let others = [
        "/proc/",
        "read_to_string(p)",
        ".ok()?.trim()",
        "root.join(",
        "File::open(folder)",
        "File::open(&made)",
        "IndexedFile::open",
        "process.join(",
        "process.path()",
        "File::open(parent)",
    ];
    // A stream may be a pipe; its lines are bounded.
    let streams = ["base/src/read.rs", "runtime/src/text/jsonl.rs"];
    let mut walked = 0;
    for path in files {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let product =
            path.components().any(|c| c.as_os_str() == "src") && !name.starts_with("fuzz");
        if !product || streams.contains(&&*name) || name.ends_with("tests.rs") {
            continue;
        }
        walked += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for (n, line) in text.lines().enumerate() {
            if line.contains("#[cfg(test)]") {
                break;
            }
            let read =
                ways.iter().any(|w| line.contains(w)) && !line.trim_start().starts_with("//");
            assert!(!read || others.iter().any(|s| line.contains(s)), "{name}:{}: {line}", n + 1);
        }
    }
    assert!(walked > 200, "the walk found {walked} files");
}

/// What each crate must not know: whatever passes, code generation and the runtime need of a parameter, its
/// family declares (`stdlib-models/src/param.rs`).
#[test]
fn only_families_know_the_names_of_parameters() {
    let names = [
        "query_key_value",
        "gpt_neox.",
        "model.layers",
        "embed_in",
        "embed_out",
        "embed_tokens",
        "lm_head",
        "self_attn",
        "_proj",
        "dense_h_to_4h",
        "attention.dense",
        ".experts.",
        ".router.",
        "norm.weight",
        "norm.bias",
        "layernorm",
    ];
    let mut files = vec![];
    for folder in ["passes/src", "codegen/src", "runtime/src", "runtime/plan/src"] {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 80, "the walk found the sources");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for (n, line) in text.lines().enumerate() {
            for name in names {
                assert!(!line.contains(name), "{}:{}: {name}", path.display(), n + 1);
            }
        }
    }
}
