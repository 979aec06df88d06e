//! YAML → checked configuration.
//!
//! [`load`] reads GPT-NeoX files as GPT-NeoX does, merges them, checks every key and value, and
//! returns a typed [`Config`] together with *all* problems found, each with its place.

pub mod arguments;
pub mod check;
pub mod cluster;
pub mod config;
pub mod merge;
mod moe;
mod ranks;
mod tokenizer;
pub mod yaml;

use std::path::{Path, PathBuf};

use neoxc_base::codes::{file, missing_key, syntax};
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
    diagnostics.retain(|d| !unread || d.kind.code != missing_key::KIND.code);
    let key = |d: &Diagnostic| d.labels.first().map(|l| l.span.clone());
    diagnostics.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| key(a).cmp(&key(b))));
    let failed = diagnostics.iter().any(|d| d.severity == Severity::Error);
    Loaded { config: config.filter(|_| !failed), diagnostics, sources }
}
