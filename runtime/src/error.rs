//! What can go wrong at run time. Every kind has a stable code, names the file or tensor it is
//! about, and maps to a documented exit code.

use std::fmt;
use std::path::{Path, PathBuf};

use neoxc_base::codes;
use neoxc_base::diag::Diagnostic;
use neoxc_plan::PlanError;

use crate::checkpoint;
use crate::train::scaler::MOST_IN_A_ROW;

/// A failure of the runtime.
#[derive(Debug)]
pub enum RuntimeError {
    /// A file cannot be read or written.
    Io {
        /// What was tried: `read`, `write`, `rename`, ….
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A data set is damaged.
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file would be overwritten.
    Exists(PathBuf),
    /// Another run saves in the folder.
    Held {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// The run, for people.
        owner: String,
    },
    /// The plan was refused.
    Plan(PlanError),
    /// A checkpoint is damaged or belongs to another model.
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the tensor's name.
        message: String,
    },
    /// A run would go on with other samples or dropout than the one that wrote the checkpoint.
    Draws {
        /// The checkpoint.
        path: PathBuf,
        /// Keys, and what they gave and give.
        what: String,
    },
    /// Kernels cannot be loaded.
    Kernels(String),
    /// The machine has less memory than the plan takes.
    Memory {
        /// What takes it.
        what: &'static str,
        /// What the plan says, for this number of threads.
        needs: u64,
        /// What can be had.
        available: u64,
        /// What sets that limit: the machine, or a control group.
        limit: String,
    },
    /// Settings that the run needs are missing or make no sense.
    Settings(String),
    /// A number that is not finite.
    NotFinite {
        /// Optimizer step.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f32,
        /// Logical name, with its kind.
        tensor: String,
    },
    /// Overflows that no loss scale helps against.
    LossScale {
        /// Optimizer step.
        step: u64,
        /// The scale of its loss.
        scale: f64,
        /// Whether that is the least; otherwise too many steps were skipped in a row.
        at_minimum: bool,
    },
    /// A checkpoint would hold a number that is not finite.
    Spoiled {
        /// Optimizer steps made.
        step: u64,
        /// The value.
        value: f32,
        /// The weight or state, as checkpoints name it.
        tensor: String,
    },
    /// Ranks cannot talk to each other.
    Link(String),
    /// The processes of a job do not belong together.
    Job(String),
    /// Another rank is lost, and with it the job.
    Lost {
        /// The rank that tells it.
        rank: u64,
        /// The rank that is lost.
        lost: u64,
        /// How.
        what: String,
        /// Ranks that this one waited for.
        waited: Vec<u64>,
        /// In which instruction.
        at: Option<String>,
    },
    /// A tokenizer is damaged or does not fit.
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic().message)
    }
}

impl std::error::Error for RuntimeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RuntimeError::Io { source, .. } => Some(source),
            RuntimeError::Plan(e) => Some(e),
            _ => None,
        }
    }
}

impl From<PlanError> for RuntimeError {
    fn from(e: PlanError) -> Self {
        RuntimeError::Plan(e)
    }
}

/// What helps where the system refused a file; nothing where its reason says all.
fn what_to_do(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind::{NotFound, PermissionDenied, StorageFull};
    match kind {
        NotFound => "check the name; a relative one is looked for from the current folder",
        PermissionDenied => {
            "the user who runs neoxc needs leave for that on the file and its folder"
        }
        StorageFull => "make room there, or give a folder on another disk",
        _ => "",
    }
}

impl RuntimeError {
    /// Says at which instruction the rank waited, if it was for a lost one.
    pub fn at(self, instruction: &str) -> Self {
        match self {
            RuntimeError::Lost { rank, lost, what, waited, .. } => {
                let at = Some(instruction.to_string());
                RuntimeError::Lost { rank, lost, what, waited, at }
            }
            other => other,
        }
    }

    /// Wraps an I/O error.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RuntimeError {
        let path = path.to_path_buf();
        move |source| RuntimeError::Io { action, path, source }
    }

    /// A [`RuntimeError::Data`].
    pub fn data(path: &Path, message: impl Into<String>) -> Self {
        Self::Data { path: path.to_path_buf(), message: message.into() }
    }

    /// A [`RuntimeError::Checkpoint`].
    pub fn checkpoint(path: &Path, message: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_path_buf(), message: message.into() }
    }

    /// A [`RuntimeError::Text`].
    pub fn text(path: &Path, message: impl Into<String>) -> Self {
        Self::Text { path: path.to_path_buf(), message: message.into() }
    }

    /// What it says to the user: code, sentence and hint.
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            RuntimeError::Io { action, path, source } => {
                codes::io::io(action, &path.display(), source, what_to_do(source.kind()))
            }
            RuntimeError::Plan(e) => plan(e),
            RuntimeError::Exists(path) if checkpoint::step_of(path).is_some() => {
                codes::exists::checkpoint(&path.display())
            }
            RuntimeError::Exists(path) => codes::exists::exists(&path.display()),
            RuntimeError::Held { folder, owner } => codes::held::held(&folder.display(), owner),
            RuntimeError::Data { path, message } => codes::data::data(&path.display(), message),
            RuntimeError::Checkpoint { path, message } => {
                codes::checkpoint::checkpoint(&path.display(), message)
            }
            RuntimeError::Draws { path, what } => codes::draws::draws(&path.display(), what),
            RuntimeError::Kernels(why) => codes::kernels::kernels(why),
            RuntimeError::Memory { what, needs, available, limit } => {
                codes::memory::memory(what, *needs, *available, limit)
            }
            RuntimeError::Settings(message) => codes::settings::settings(message),
            RuntimeError::NotFinite { step, what, value, tensor } => {
                codes::not_finite::not_finite(*step, what, *value, tensor)
            }
            RuntimeError::LossScale { step, scale, at_minimum } => {
                let in_a_row = (!at_minimum).then_some(MOST_IN_A_ROW);
                codes::loss_scale::loss_scale(*step, *scale, in_a_row)
            }
            RuntimeError::Spoiled { step, value, tensor } => {
                codes::not_finite::spoiled(*step, *value, tensor)
            }
            RuntimeError::Text { path, message } => {
                codes::tokenizer::tokenizer(&path.display(), message)
            }
            RuntimeError::Link(message) => codes::link::link(message),
            RuntimeError::Job(message) => codes::job::job(message),
            RuntimeError::Lost { rank, lost, what, waited, at } => {
                codes::lost::lost(*rank, *lost, what, waited, at.as_deref())
            }
        }
    }

    /// Stable code.
    pub fn code(&self) -> &'static str {
        self.diagnostic().kind.code
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        self.diagnostic().hint
    }

    /// Whether every rank of a job has this very error, so that one of them is enough to tell it.
    pub fn is_everybodys(&self) -> bool {
        use RuntimeError::{Draws, Exists, Job, LossScale, NotFinite};
        matches!(self, Job(_) | NotFinite { .. } | LossScale { .. } | Draws { .. } | Exists(_))
    }

    /// The whole message: code, what happened, and the hint.
    pub fn message(&self) -> String {
        self.diagnostic().to_string()
    }

    /// Exit code, as `neoxc --help` documents it.
    pub fn exit_code(&self) -> u8 {
        self.diagnostic().kind.exit
    }
}

/// A plan that cannot be read, written or trusted.
fn plan(e: &PlanError) -> Diagnostic {
    match e {
        PlanError::Io { action, path, source } => {
            let hint = if *action == "read" { "`neoxc compile` makes a plan" } else { "" };
            codes::io::io(action, &path.display(), source, hint)
        }
        PlanError::Untrusted(..) => codes::plan::plan(
            &e.to_string(),
            "take the right to write from others (`chmod -R go-w`, `chown -R`, `setfacl -R -b`), or give --trust-plan",
        ),
        PlanError::NotAPlan(..) => codes::plan::plan(&e.to_string(), "name another folder"),
        _ => codes::plan::plan(&e.to_string(), "compile the plan again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_run_is_one_of_these_errors() {
        let path = || PathBuf::from("f");
        let io = || std::io::Error::other("x");
        let plan = PlanError::Invalid("m".into());
        let all = [
            RuntimeError::Io { action: "read", path: path(), source: io() },
            RuntimeError::data(&path(), "m"),
            RuntimeError::Exists(path()),
            RuntimeError::Held { folder: path(), owner: "m".into() },
            RuntimeError::Plan(plan),
            RuntimeError::checkpoint(&path(), "m"),
            RuntimeError::Draws { path: path(), what: "m".into() },
            RuntimeError::Kernels("m".into()),
            RuntimeError::Memory { what: "m", needs: 2, available: 1, limit: "m".into() },
            RuntimeError::Settings("m".into()),
            RuntimeError::NotFinite { step: 1, what: "loss", value: f32::NAN, tensor: "t".into() },
            RuntimeError::LossScale { step: 1, scale: 1.0, at_minimum: true },
            RuntimeError::Spoiled { step: 1, value: f32::NAN, tensor: "t".into() },
            RuntimeError::text(&path(), "m"),
            RuntimeError::Link("m".into()),
            RuntimeError::Job("m".into()),
            crate::health::Loss { rank: 1, how: crate::health::How::Gone }.error(0, vec![1]),
        ];
        let mut told: Vec<&str> = all.iter().map(RuntimeError::code).collect();
        told.sort_unstable();
        told.dedup();
        // What `convert` refuses is no error of a run.
        let convert = codes::hugging_face::KIND.code;
        let known = codes::ALL.iter().map(|k| k.code);
        let known = known.filter(|c| c.starts_with("NXR") && *c != convert);
        assert_eq!(told, known.collect::<Vec<_>>());
    }
}
