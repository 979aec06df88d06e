//! Files with the one answer to each problem that has one, every other character as it was.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let folder = tempfile::tempdir()?;
//! let file = folder.path().join("a.yml");
//! std::fs::write(&file, "{ \"min_lr\": 1e-5, # the least\n}")?;
//!
//! let loaded = neoxc_frontend::load(&[file], None, &[]);
//! let fixed = neoxc_frontend::fix::fixed(&loaded.diagnostics, &loaded.sources);
//! assert_eq!(fixed[0].text, "{ \"min_lr\": 1.0e-5, # the least\n}");
//! assert_eq!(fixed[0].changes, ["1:13: `1e-5` → `1.0e-5`"]);
//! # Ok(())
//! # }
//! ```

use neoxc_base::diag::{Diagnostic, Edit, Sources};

/// A file as it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Its name.
    pub file: String,
    /// Its text.
    pub text: String,
    /// What was changed, a line each, from the first place to the last.
    pub changes: Vec<String>,
}

/// Makes the edits that `diagnostics` have, file by file; what `--set` gave is in no file.
pub fn fixed(diagnostics: &[Diagnostic], sources: &Sources) -> Vec<Fixed> {
    let mut edits: Vec<&Edit> = diagnostics.iter().filter_map(|d| d.edit.as_deref()).collect();
    edits.sort_by_key(|e| e.span.clone());
    edits.dedup_by_key(|e| e.span.clone());
    let mut files: Vec<Fixed> = vec![];
    for e in edits.iter().filter(|e| !e.span.file.starts_with("--set")) {
        let Some(text) = sources.text(&e.span.file) else { continue };
        let same = |f: &Fixed| *f.file == *e.span.file;
        if !files.last().is_some_and(same) {
            let (file, text) = (e.span.file.to_string(), text.to_string());
            files.push(Fixed { file, text, changes: vec![] });
        }
        let Some(f) = files.last_mut() else { continue };
        let was = piece(text, e);
        let (line, column) = (e.span.line, e.span.column);
        f.changes.push(format!("{line}:{column}: `{was}` → `{}`", e.text));
    }
    // From the last place to the first, so that places before stay where they are.
    for f in &mut files {
        for e in edits.iter().rev().filter(|e| *f.file == *e.span.file) {
            f.text = replaced(&f.text, e);
        }
    }
    files
}

/// The characters that an edit replaces: those of one line.
fn piece(text: &str, e: &Edit) -> String {
    let line = text.lines().nth(e.span.line as usize - 1).unwrap_or_default();
    line.chars().skip(e.span.column as usize - 1).take(e.span.length as usize).collect()
}

fn replaced(text: &str, e: &Edit) -> String {
    let change = |line: &str| {
        let before: String = line.chars().take(e.span.column as usize - 1).collect();
        let skip = e.span.column as usize - 1 + e.span.length as usize;
        let after: String = line.chars().skip(skip).collect();
        before + &e.text + &after
    };
    let lines = text.split_inclusive('\n').enumerate();
    lines
        .map(|(i, line)| if i + 1 == e.span.line as usize { change(line) } else { line.into() })
        .collect()
}
