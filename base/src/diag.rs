//! Diagnostics as data: a code, a message, a labelled span for each side of a conflict, a hint.
//!
//! Nothing here draws: only the command line renders. A diagnostic *kind* is one file of [`crate::codes`],
//! so that `neoxc explain CODE`, the message and its hint are read and written in one place.

use std::fmt;
use std::sync::Arc;

/// A diagnostic kind: what `neoxc explain CODE` prints.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable code such as `NX0101`; never reused.
    pub code: &'static str,
    /// One line: what is wrong, without names.
    pub title: &'static str,
    /// Paragraphs: cause and remedy.
    pub explanation: &'static str,
    /// An instance of it.
    pub example: Example,
    /// Exit code of a command that ends with it, as `neoxc --help` documents them.
    pub exit: u8,
}

/// An instance of a diagnostic. Tests hold the examples to be what they say.
#[derive(Debug, PartialEq, Eq)]
pub enum Example {
    /// Keys of a configuration: those of `wrong` give the diagnostic, those of `right` do not.
    Config {
        /// Lines of YAML that give it.
        wrong: &'static str,
        /// What may be meant.
        right: &'static str,
    },
    /// What a command prints.
    Session(&'static str),
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = |text: &str| text.lines().map(|l| format!("  {l}\n")).collect::<String>();
        match self {
            Example::Config { wrong, right } => {
                write!(f, "Wrong:\n{}Right:\n{}", indent(wrong), indent(right))
            }
            Example::Session(text) => write!(f, "Example:\n{}", indent(text)),
        }
    }
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Compilation goes on.
    Warning,
    /// Compilation stops after all problems were collected.
    Error,
}

/// A place in a source file; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// File name as the user gave it (`--set` values use `"--set"`).
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// Length in characters, at least 1.
    pub length: u32,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One marked place with what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What is said of it.
    pub text: String,
}

/// The one answer to a problem: what is to stand at a place instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced.
    pub span: Span,
    /// What replaces it.
    pub text: String,
}

/// One problem found in what the user gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of problem.
    pub kind: &'static Kind,
    /// Error or warning.
    pub severity: Severity,
    /// The sentence with the names and numbers of this case.
    pub message: String,
    /// Marked places; the first is the primary one.
    pub labels: Vec<Label>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The same as an edit, where there is one answer.
    pub edit: Option<Box<Edit>>,
}

impl Diagnostic {
    /// An error of `kind`.
    pub fn error(kind: &'static Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            severity: Severity::Error,
            message: message.into(),
            labels: vec![],
            hint: None,
            edit: None,
        }
    }

    /// A warning of `kind`.
    pub fn warning(kind: &'static Kind, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(kind, message) }
    }

    /// Adds a labelled place.
    #[must_use]
    pub fn label(mut self, span: &Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span: span.clone(), text: text.into() });
        self
    }

    /// Says that `text` in the place of `span` is the one answer.
    #[must_use]
    pub fn edit(mut self, span: &Span, text: impl Into<String>) -> Self {
        self.edit = Some(Box::new(Edit { span: span.clone(), text: text.into() }));
        self
    }

    /// Sets the hint; an empty one is none.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|h| !h.is_empty());
        self
    }
}

/// Without source lines: code and message, each place with its label, and the hint.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: {}", self.kind.code, self.message)?;
        for label in &self.labels {
            write!(f, "\n  --> {}: {}", label.span, label.text)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  = hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// The text of the files that spans point into, for rendering.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<(Arc<str>, Arc<str>)>,
}

impl Sources {
    /// Adds a file and returns its name as spans use it.
    pub fn add(&mut self, name: &str, text: &str) -> Arc<str> {
        let name: Arc<str> = name.into();
        self.files.push((name.clone(), text.into()));
        name
    }

    /// The text of the file called `name`.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.files.iter().find(|(n, _)| &**n == name).map(|(_, t)| &**t)
    }

    /// Line `line` (from 1) of the file called `name`.
    pub fn line(&self, name: &str, line: u32) -> Option<&str> {
        self.text(name)?.lines().nth(line.checked_sub(1)? as usize)
    }
}
