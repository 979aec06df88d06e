//! YAML → checked configuration.
//!
//! [`load`] reads GPT-NeoX files as GPT-NeoX does, merges them, checks every key and value, and
//! returns a typed [`Config`] together with *all* problems found, each with its place.
//!
//! | module | what it does |
//! |---|---|
//! | [`yaml`] | YAML 1.1 with the position of each value |
//! | [`merge`] | several files and `--set` into one dictionary |
//! | [`arguments`] | every argument of GPT-NeoX |
//! | [`check`], [`config`] | the checks, and the typed configuration that they give |
//! | [`fix`] | files with the one answer to each problem that has one |
//! | [`lints`] | traps of GPT-NeoX |
//! | [`cluster`] | descriptions of clusters |
//!
//! # Example
//! A key that two files give is a conflict. The diagnostic marks both sides:
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let folder = tempfile::tempdir()?;
//! let files = [("a.yml", "{\"seed\": 1}"), ("b.yml", "{\"seed\": 2}")].map(|(name, text)| {
//!     let path = folder.path().join(name);
//!     std::fs::write(&path, text).map(|()| path)
//! });
//! let files = files.into_iter().collect::<std::io::Result<Vec<_>>>()?;
//!
//! let loaded = neoxc_frontend::load(&files, None, &["num_layers=two".into()]);
//! assert!(loaded.config.is_none(), "a configuration with errors is none");
//! let conflict = loaded.diagnostics.iter().find(|d| d.kind.code == "NX0103").expect("it is found");
//! assert_eq!(conflict.labels.len(), 2);
//! // The other problems are reported too: `two` is no number, and keys are missing.
//! assert!(loaded.diagnostics.len() > 2);
//! # Ok(())
//! # }
//! ```

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod arguments;
mod attention;
pub mod check;
pub mod cluster;
pub mod config;
mod data;
pub mod fix;
mod layer;
pub mod lints;
pub mod merge;
mod moe;
mod optimizer;
mod parts;
mod positions;
mod precision;
mod ranks;
mod reader;
mod tokenizer;
mod vocabularies;
pub mod yaml;

use std::path::{Path, PathBuf};

use neoxc_base::codes::{assumed_vocabulary, file, missing_key, syntax};
use neoxc_base::diag::{Diagnostic, Severity, Sources};

pub use config::Config;
pub use neoxc_base::codes as diagnostics;

/// What loading gave.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, when there was no error.
    pub config: Option<Config>,
    /// All problems, errors first, each group by place.
    pub diagnostics: Vec<Diagnostic>,
    /// Text of the files, for rendering.
    pub sources: Sources,
}

/// Reads `files` (below `dir`, if given), applies `sets`, checks everything.
pub fn load(files: &[PathBuf], dir: Option<&Path>, sets: &[String]) -> Loaded {
    let mut sources = Sources::default();
    let mut diagnostics = vec![];
    let merged = merge::merge(files, dir, sets, &mut sources, &mut diagnostics);
    // What seems to be missing may be in what could not be read: only the cause is told.
    let unread = |d: &Diagnostic| [file::KIND.code, syntax::KIND.code].contains(&d.kind.code);
    let unread = diagnostics.iter().any(unread);
    let config = check::check(&merged, &mut diagnostics);
    let absent = [missing_key::KIND.code, assumed_vocabulary::KIND.code];
    diagnostics.retain(|d| !unread || !absent.contains(&d.kind.code));
    let key = |d: &Diagnostic| d.labels.first().map(|l| l.span.clone());
    diagnostics.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| key(a).cmp(&key(b))));
    let failed = diagnostics.iter().any(|d| d.severity == Severity::Error);
    Loaded { config: config.filter(|_| !failed), diagnostics, sources }
}
