//! The documents and the tree agree: links resolve, files that a document names exist, words that the glossary avoids do
//! not come back, in documents or in sources, and functions stay short.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every file of the tree that is ours, by its path from the root.
fn tree() -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, out: &mut BTreeSet<PathBuf>) {
        for e in std::fs::read_dir(dir).unwrap().flatten() {
            let (path, name) = (e.path(), e.file_name().to_string_lossy().into_owned());
            let skipped = ["target", "out"].contains(&name.as_str()) || name.starts_with(".venv");
            if skipped || name == ".git" {
                continue;
            }
            out.insert(path.strip_prefix(root()).unwrap().to_path_buf());
            if path.is_dir() && !path.is_symlink() {
                walk(&path, out);
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(&root(), &mut out);
    out
}

/// The Markdown files of the tree and their text.
fn documents(tree: &BTreeSet<PathBuf>) -> Vec<(PathBuf, String)> {
    let documents = tree.iter().filter(|p| p.extension().is_some_and(|e| e == "md"));
    documents.map(|p| (p.clone(), std::fs::read_to_string(root().join(p)).unwrap())).collect()
}

/// `a/b/../c` as `a/c`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part.as_os_str().to_str() {
            Some("..") => drop(out.pop()),
            Some(".") => {}
            _ => out.push(part),
        }
    }
    out
}

/// The lines outside fenced code, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(n, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((n + 1, line))
    })
}

/// The anchor that Markdown renderers make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What stands between `open` and `close`, each time in the line.
fn between<'a>(line: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    line.split(open).skip(1).filter_map(move |rest| rest.split_once(close).map(|(inner, _)| inner))
}

/// Fails with all problems at once.
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_relative_link_of_a_document_leads_to_a_file_and_a_heading() {
    let tree = tree();
    let documents = documents(&tree);
    let (mut count, mut problems) = (0, vec![]);
    for (path, text) in &documents {
        for (n, line) in prose(text) {
            for link in between(line, "](", ')').filter(|l| !l.contains("://")) {
                count += 1;
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                let target = match file {
                    "" => path.clone(),
                    _ => plain(&path.parent().unwrap().join(file)),
                };
                let place = format!("{}:{n}", path.display());
                if !tree.contains(&target) {
                    problems.push(format!("{place}: no file `{link}`"));
                } else if !heading.is_empty() {
                    let (_, text) = documents.iter().find(|(p, _)| *p == target).unwrap();
                    let mut headings = prose(text).filter(|(_, l)| l.starts_with('#'));
                    if !headings.any(|(_, l)| anchor(l) == heading) {
                        problems.push(format!("{place}: no heading `{link}`"));
                    }
                }
            }
        }
    }
    none(&problems);
    assert!(count > 50, "the walk found {count} links");
}

/// Whether a word in backticks is the name of a file of this project: it has one of our endings and no placeholder.
fn names_a_file(word: &str) -> bool {
    let ours = [".rs", ".md", ".py", ".sh", ".toml"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let letters = word.rsplit('/').next().is_some_and(|n| n.len() > 4 && !n.starts_with('.'));
    ours.iter().any(|e| word.ends_with(e)) && word.chars().all(plain) && letters
}

#[test]
fn a_file_that_a_document_names_exists() {
    let tree = tree();
    let (mut count, mut problems) = (0, vec![]);
    // The changes name files that are gone.
    let documents = documents(&tree).into_iter().filter(|(p, _)| !p.ends_with("CHANGELOG.md"));
    for (path, text) in documents {
        for (n, line) in prose(&text) {
            let words = line.split('`').skip(1).step_by(2).filter(|w| names_a_file(w));
            for word in words {
                count += 1;
                // A path from the root or from the document's folder; a name alone, or the end of a path, of any file.
                let near = plain(&path.parent().unwrap().join(word));
                let found = tree.contains(&near) || tree.iter().any(|p| p.ends_with(word));
                if !found {
                    problems.push(format!("{}:{n}: no file `{word}`", path.display()));
                }
            }
        }
    }
    none(&problems);
    assert!(count > 40, "the walk found {count} names of files");
}

/// Words that the glossary avoids and what to write instead. Their reasons are in `docs/glossary.md`.
const AVOIDED: &[(&str, &str)] = &[
    ("exchange", "`collective`, or `send` and `receive`: the words of MPI and NCCL"),
    ("gift", "`send`: the word of MPI and NCCL"),
    ("look-up", "`embedding` or `gather`: the op is called gather_rows"),
    ("product", "`matmul`: the op and its kernels are called so"),
];

/// A word for a dtype; in comments it is also the lower half of a register.
const HALF: (&str, &str) = ("halves", "`bf16`: half precision is IEEE f16");

/// Terms of the field that contain an avoided word, and halves that are fractions.
const TERMS: &[&str] = &[
    "dot product",
    "outer product",
    "element-wise product",
    "`exponential` halves",
    "half a cosine",
    "half of a surrogate pair",
];

/// The avoided words in a line, each with what to write instead.
fn avoided_in(line: &str, avoided: &[(&str, &str)]) -> Vec<String> {
    let mut line = line.to_lowercase();
    for term in TERMS {
        line = line.replace(term, "");
    }
    // What stands in backticks is a name in the code.
    let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let mut out = vec![];
    for word in line.split(|c: char| !c.is_alphanumeric() && !"-_".contains(c)) {
        for (bad, instead) in avoided {
            if word == *bad || word.strip_suffix('s') == Some(bad) {
                out.push(format!("`{word}`; write {instead}"));
            }
        }
    }
    out
}

#[test]
fn words_that_the_glossary_avoids_stay_out_of_the_documents() {
    let mut problems = vec![];
    let avoided = [AVOIDED, &[HALF]].concat();
    for (path, text) in documents(&tree()).iter().filter(|(p, _)| !p.ends_with("docs/glossary.md"))
    {
        for (n, line) in prose(text) {
            let found = avoided_in(line, &avoided);
            problems.extend(found.iter().map(|what| format!("{}:{n}: {what}", path.display())));
        }
    }
    none(&problems);
}

/// The Rust sources of the tree and their text, but for this file, which has the words.
fn sources(tree: &BTreeSet<PathBuf>) -> Vec<(PathBuf, String)> {
    let all = tree.iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
    let all = all.filter(|p| !p.ends_with("tests/tests/tidy.rs"));
    all.map(|p| (p.clone(), std::fs::read_to_string(root().join(p)).unwrap())).collect()
}

/// Where a comment or a string of a source begins (a byte), its text, and whether it is a string.
fn comments_and_strings(source: &str) -> Vec<(usize, &str, bool)> {
    let (mut out, mut at) = (vec![], 0);
    let end_of = |from: usize, what: &str| {
        source[from..].find(what).map_or(source.len(), |n| from + n + what.len())
    };
    while at < source.len() {
        let rest = &source[at..];
        let before = source[..at].chars().next_back();
        let word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let raw = rest.strip_prefix("br").or(rest.strip_prefix('r')).filter(|_| !word);
        let hashes = raw.map_or(0, |r| r.len() - r.trim_start_matches('#').len());
        let end = if rest.starts_with("//") {
            end_of(at, "\n")
        } else if rest.starts_with("/*") {
            end_of(at, "*/")
        } else if raw.is_some_and(|r| r[hashes..].starts_with('"')) {
            let open = end_of(at, "\"");
            end_of(open, &format!("\"{}", "#".repeat(hashes)))
        } else if let Some(inner) = rest.strip_prefix('"') {
            let mut escaped = false;
            let close = inner.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            at + close.map_or(rest.len(), |n| n + 2)
        } else {
            // A character, which may be a quotation mark, or the name of a lifetime.
            let mut next = rest.chars();
            at += match (next.next(), next.next(), next.next()) {
                (Some('\''), Some('\\'), Some(c)) => 2 + c.len_utf8(),
                (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
                (c, ..) => c.map_or(1, char::len_utf8),
            };
            continue;
        };
        out.push((at, &source[at..end], !rest.starts_with('/')));
        at = end;
    }
    out
}

#[test]
fn comments_and_strings_of_a_source_are_found() {
    let source = r##"let a = "x\"y"; // it's "b"
let (c, d) = ('"', b'\''); let e: &'static str = r#"p"q"#; /* f */ g"##;
    let found: Vec<&str> = comments_and_strings(source).iter().map(|(_, text, _)| *text).collect();
    assert_eq!(found, [r#""x\"y""#, "// it's \"b\"\n", "r#\"p\"q\"#", "/* f */"]);
}

#[test]
fn words_that_the_glossary_avoids_stay_out_of_comments_and_strings() {
    let (mut count, mut problems) = (0, vec![]);
    for (path, source) in sources(&tree()) {
        for (at, text, string) in comments_and_strings(&source) {
            count += 1;
            let name = &[("half", HALF.1), HALF][..];
            let mut found = avoided_in(text, AVOIDED);
            found.extend(if string { avoided_in(text, name) } else { vec![] });
            if text.to_lowercase().replace('-', " ").contains("half precision") {
                found.push(format!("`half precision`; write {}", HALF.1));
            }
            let line = source[..at].matches('\n').count() + 1;
            problems.extend(found.iter().map(|what| format!("{}:{line}: {what}", path.display())));
        }
    }
    none(&problems);
    assert!(count > 10_000, "the walk found {count} comments and strings");
}

/// Lines that a function may have: what a reader can hold in mind.
const LONGEST: usize = 100;

/// The functions of a formatted source: line, name, and how many lines each has.
fn functions(source: &str) -> Vec<(usize, &str, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut out = vec![];
    for (n, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some((head, name)) = code.split_once("fn ") else { continue };
        let plain = |w: &str| {
            ["pub", "const", "unsafe", "async", "extern", "\"C\""].contains(&w)
                || w.starts_with("pub(")
        };
        if !head.split_whitespace().all(plain) || !(head.is_empty() || head.ends_with(' ')) {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        // Formatting puts the last brace below the beginning; a declaration ends with a semicolon there.
        let ends = |l: &&str| {
            let inner = l.strip_prefix(indent).unwrap_or_default();
            inner == "}"
                || (!inner.starts_with(' ') && (inner.ends_with(';') || inner.ends_with('}')))
        };
        let length = lines[n..].iter().position(ends).map_or(1, |i| i + 1);
        let name =
            name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        out.push((n + 1, name, length));
    }
    out
}

#[test]
fn no_function_is_longer_than_a_hundred_lines() {
    let (mut count, mut problems) = (0, vec![]);
    for (path, source) in sources(&tree()) {
        if !path.components().any(|c| c.as_os_str() == "src") {
            continue;
        }
        for (line, name, length) in functions(&source) {
            count += 1;
            if length > LONGEST {
                let place = format!("{}:{line}", path.display());
                problems.push(format!(
                    "{place}: `{name}` has {length} lines; cut it along its comments"
                ));
            }
        }
    }
    none(&problems);
    assert!(count > 3_000, "the walk found {count} functions");
}

/// A merge that was not finished leaves a line for each side: seven of one sign, and a name.
fn marks_a_conflict(line: &str) -> bool {
    ['<', '|', '>'].iter().any(|sign| {
        let rest = line.trim_start_matches(*sign);
        line.len() - rest.len() == 7 && rest.starts_with(' ')
    })
}

#[test]
fn no_file_has_the_marks_of_a_merge() {
    let (mut count, mut problems) = (0, vec![]);
    for path in tree() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        count += 1;
        let marked = text.lines().enumerate().filter(|(_, l)| marks_a_conflict(l));
        problems.extend(marked.map(|(n, l)| format!("{}:{}: {l}", path.display(), n + 1)));
    }
    none(&problems);
    assert!(count > 700, "the walk found {count} files");
    let signs = |sign: &str| format!("{} side", sign.repeat(7));
    assert!(["<", "|", ">"].iter().all(|s| marks_a_conflict(&signs(s))));
    assert!(!marks_a_conflict("| a table | with rows |") && !marks_a_conflict(&"<".repeat(7)));
}

/// Errors are diagnostics: the one place that draws them writes the code behind `error`.
#[test]
fn no_message_begins_as_an_error_without_a_code() {
    let (mut count, mut problems) = (0, vec![]);
    for (path, source) in sources(&tree()) {
        if !path.components().any(|c| c.as_os_str() == "src") {
            continue;
        }
        let code = source.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (at, text, string) in comments_and_strings(code) {
            count += usize::from(string);
            let inner = text.trim_start_matches(['"', '#', 'r', 'b']);
            if string && (inner.starts_with("error: ") || inner.starts_with("Error: ")) {
                let line = code[..at].matches('\n').count() + 1;
                problems.push(format!("{}:{line}: {text}", path.display()));
            }
        }
    }
    none(&problems);
    assert!(count > 5_000, "the walk found {count} strings");
}
