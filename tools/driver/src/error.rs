//! Why a compilation failed, and what the user is told of it.

use std::path::Path;

use neoxc_base::codes::internal_error::internal_error;
use neoxc_base::diag::Diagnostic;
use neoxc_codegen::CodegenError;
use neoxc_passes::PassError;
use neoxc_passes::pipeline::PipelineError;

/// Why compilation failed. A configuration is checked before; what only the built model shows is a
/// [`PassError::Refused`], and all else a mistake of neoxc.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The model cannot be built.
    #[error("model: {0}")]
    Model(String),
    /// A pass failed; its input can be replayed.
    #[error(transparent)]
    Pass(#[from] PipelineError),
    /// Code generation failed.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// The module to go on from is none that can be gone on from.
    #[error("{}", .0.message)]
    Module(Box<Diagnostic>),
    /// No target was asked for that runs a plan.
    #[error("{}", .0.message)]
    Target(Box<Diagnostic>),
}

impl CompileError {
    /// What it says to the user: what was refused, or an internal error with the command that replays it,
    /// for which the failed pass's input is saved into `folder`.
    pub fn diagnostic(&self, folder: &Path) -> Diagnostic {
        match self {
            CompileError::Target(d) | CompileError::Module(d) => (**d).clone(),
            CompileError::Pass(e) => match &*e.error {
                PassError::Refused(d) => (**d).clone(),
                error => {
                    let replay = save_replay(e, folder);
                    internal_error(&self.to_string(), &error.spans(), replay.as_deref())
                }
            },
            _ => internal_error(&self.to_string(), &[], None),
        }
    }
}

/// Saves what replays the failure into `folder` and says how, if the folder can be written.
fn save_replay(e: &PipelineError, folder: &Path) -> Option<String> {
    let path = folder.join(format!("neoxc-failed-{}.mlir", e.pass));
    std::fs::write(&path, &e.input).ok()?;
    Some(format!("neoxc opt {} --passes {}", path.display(), e.pass))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use neoxc_base::codes::uncomputed_dtype::uncomputed_dtype;

    use super::*;

    #[test]
    fn what_is_refused_is_the_users_and_what_fails_is_ours() {
        let folder = std::env::temp_dir().join(format!("neoxc-error-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let of = |error: PassError| {
            let (pass, input) = ("lower-precision", "module {}".to_string());
            CompileError::from(PipelineError { pass, input, error: Box::new(error) })
        };
        let d = of(uncomputed_dtype("f16", &[]).into()).diagnostic(&folder);
        assert_eq!((d.kind.code, d.kind.exit), ("NX0202", 3));
        assert_eq!(d.message, "no target computes with f16");
        let saved = folder.join("neoxc-failed-lower-precision.mlir");
        assert!(!saved.exists(), "there is nothing to replay");
        let d = of(PassError::internal("it has no kind".into())).diagnostic(&folder);
        assert_eq!((d.kind.code, d.kind.exit), ("NX0001", 1));
        assert_eq!(d.message, "pass lower-precision: it has no kind");
        assert!(d.hint.unwrap().contains("neoxc opt ") && saved.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
