//! Why a compilation failed, and what the user is told of it.

use std::io::Write;
use std::path::Path;

use neoxc_base::codes::{self, internal_error::internal_error};
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
    /// The configuration says what its family of models has not.
    #[error("{}", .0.message)]
    Family(Box<Diagnostic>),
    /// The module to go on from is none that can be gone on from.
    #[error("{}", .0.message)]
    Module(Box<Diagnostic>),
    /// The configuration asks for what its model does not have.
    #[error("{}", .0.message)]
    Refused(Box<Diagnostic>),
    /// No target was asked for that runs a plan.
    #[error("{}", .0.message)]
    Target(Box<Diagnostic>),
}

impl CompileError {
    /// What it says to the user: what was refused, or an internal error with the command that replays it,
    /// for which the failed pass's input is saved into `folder`.
    pub fn diagnostic(&self, folder: &Path) -> Diagnostic {
        match self {
            CompileError::Target(d)
            | CompileError::Module(d)
            | CompileError::Family(d)
            | CompileError::Refused(d) => (**d).clone(),
            CompileError::Pass(e) => match &*e.error {
                PassError::Refused(d) => (**d).clone(),
                error => {
                    let replay = save_replay(e, folder);
                    internal_error(&self.to_string(), &error.spans(), replay.as_deref())
                }
            },
            CompileError::Codegen(CodegenError::Machine(why)) => {
                let hint = "what it takes: lld or a C compiler, memory, room in TMPDIR, threads (`ulimit -u`) and \
                            open files (`ulimit -n`)";
                codes::io::io("compile", &"kernels", why, hint)
            }
            CompileError::Codegen(CodegenError::Io { path, source }) => {
                codes::io::io("use", &path.display(), source, "name a folder with room in TMPDIR")
            }
            _ => internal_error(&self.to_string(), &[], None),
        }
    }
}

/// Saves what replays the failure into `folder` and says how, if the folder can be written.
fn save_replay(e: &PipelineError, folder: &Path) -> Option<String> {
    // Of a new name: in a folder that others write to, a known one may be a link of theirs.
    let (prefix, suffix) = (format!("neoxc-failed-{}-", e.pass), ".mlir");
    let mut named = tempfile::Builder::new();
    let mut file = named.prefix(&prefix).suffix(suffix).tempfile_in(folder).ok()?;
    file.write_all(e.input.as_bytes()).ok()?;
    let (_, path) = file.keep().ok()?;
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
        let saved = || std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(saved(), 0, "there is nothing to replay");
        let d = of(PassError::internal("it has no kind".into())).diagnostic(&folder);
        assert_eq!((d.kind.code, d.kind.exit), ("NX0001", 1));
        assert_eq!(d.message, "pass lower-precision: it has no kind");
        assert!(d.hint.unwrap().contains("neoxc opt ") && saved() == 1);
        let d = CompileError::from(CodegenError::Machine("no linker".into())).diagnostic(&folder);
        assert_eq!((d.kind.code, d.kind.exit), ("NXR0001", 5));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
