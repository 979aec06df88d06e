//! What a pass is: a name, the facts it needs and leaves, a function on modules, a report.

use neoxc_ir::diag::{Diagnostic, Span};
use neoxc_ir::op::OpError;
use neoxc_ir::{Loc, Module, VerifyError};

use crate::facts::Fact;
pub use crate::settings::{Degrees, PassCx};

/// What a pass has to say: lines for `-v`, `explain` and logs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PassReport {
    /// One finding each.
    pub notes: Vec<String>,
}

/// Why a pass failed. The pipeline adds the pass's name and keeps its input for replay.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PassError {
    /// An op's rule refused.
    #[error("{0}")]
    Op(#[from] OpError),
    /// The module was broken before or after the pass.
    #[error("{0}")]
    Verify(#[from] VerifyError),
    /// What the pass relies on does not hold.
    #[error("requires that {}: {found}", fact.says())]
    Requires {
        /// What was relied on.
        fact: Fact,
        /// Where it fails.
        found: String,
    },
    /// The pass broke its promise: a mistake in the pass.
    #[error("left a module in which it is not true that {}: {found}", fact.says())]
    Ensures {
        /// What was promised.
        fact: Fact,
        /// Where it fails.
        found: String,
    },
    /// What the user asks for cannot be had, which only the built model shows.
    #[error("{}", .0.message)]
    Refused(Box<Diagnostic>),
    /// The pass does not handle what it met: a mistake of neoxc.
    #[error("{what}{}", at(loc))]
    Internal {
        /// What was met.
        what: String,
        /// Lines of the configuration that it comes from.
        loc: Loc,
    },
}

/// ` at LINE`, where the line is known.
fn at(loc: &Loc) -> String {
    match loc {
        Loc::Unknown => String::new(),
        loc => format!(" at {loc}"),
    }
}

impl PassError {
    /// A mistake of neoxc without a known line.
    pub fn internal(what: String) -> Self {
        PassError::Internal { what, loc: Loc::Unknown }
    }

    /// A mistake of neoxc that an op made by `loc` shows.
    pub fn internal_at(what: String, loc: &Loc) -> Self {
        PassError::Internal { what, loc: loc.clone() }
    }

    /// Lines of the configuration that it is about, where they are known.
    pub fn spans(&self) -> Vec<Span> {
        match self {
            PassError::Refused(d) => d.labels.iter().map(|l| l.span.clone()).collect(),
            PassError::Internal { loc, .. } => loc.spans(),
            _ => vec![],
        }
    }
}

impl From<Diagnostic> for PassError {
    fn from(d: Diagnostic) -> Self {
        PassError::Refused(Box::new(d))
    }
}

/// A pass.
#[derive(Clone, Copy)]
pub struct Pass {
    /// verb-noun, as `neoxc opt --passes` takes it.
    pub name: &'static str,
    /// One line for the list of passes.
    pub doc: &'static str,
    /// Facts checked before it runs.
    pub requires: &'static [Fact],
    /// Facts checked after it ran.
    pub ensures: &'static [Fact],
    /// Changes the module.
    pub run: fn(&mut Module, &PassCx) -> Result<PassReport, PassError>,
}
