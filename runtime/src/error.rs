//! What can go wrong at run time. Every kind has a stable code, names the file or tensor it is
//! about, and maps to a documented exit code.

use std::path::{Path, PathBuf};

use neoxc_plan::PlanError;

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: `read`, `write`, `rename`, ….
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A data set is damaged.
    #[error("{path}: {message}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file would be overwritten.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The plan was refused.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A checkpoint is damaged or belongs to another model.
    #[error("{path}: {message}")]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the tensor's name.
        message: String,
    },
    /// A run would go on with other samples or dropout than the one that wrote the checkpoint.
    #[error("{path}: the run that wrote this drew other samples or dropout: {what}")]
    Draws {
        /// The checkpoint.
        path: PathBuf,
        /// Keys, and what they gave and give.
        what: String,
    },
    /// Kernels cannot be loaded.
    #[error("kernels: {0}")]
    Kernels(String),
    /// The machine has less memory than the plan takes.
    #[error("the plan takes {needs} bytes of memory, {available} are available ({limit})")]
    Memory {
        /// What the plan says, for this number of threads.
        needs: u64,
        /// What can be had.
        available: u64,
        /// What sets that limit: the machine, or a control group.
        limit: String,
    },
    /// Settings that the run needs are missing or make no sense.
    #[error("{0}")]
    Settings(String),
    /// A number that is not finite.
    #[error("step {step}: {what} is {value}; first tensor that is not finite: {tensor}")]
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
    /// Ranks cannot talk to each other.
    #[error("{0}")]
    Link(String),
    /// The processes of a job do not belong together.
    #[error("{0}")]
    Job(String),
    /// Another rank is lost, and with it the job.
    #[error("rank {lost} {what}; rank {rank} {}", waiting(waited, at))]
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
    #[error("{path}: {message}")]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// What a rank did when it learned of a loss.
fn waiting(waited: &[u64], at: &Option<String>) -> String {
    let numbers: Vec<String> = waited.iter().map(u64::to_string).collect();
    let plural = if waited.len() == 1 { "" } else { "s" };
    let whom = match waited {
        [] => String::new(),
        _ => format!(" for rank{plural} {}", numbers.join(", ")),
    };
    match at {
        Some(at) => format!("waited{whom} in {at}"),
        None => format!("waited{whom} between programs"),
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

    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            RuntimeError::Io { .. } | RuntimeError::Plan(PlanError::Io { .. }) => "NXR0001",
            RuntimeError::Exists(_) => "NXR0002",
            RuntimeError::Data { .. } => "NXR0101",
            RuntimeError::Plan(_) => "NXR0201",
            RuntimeError::Checkpoint { .. } => "NXR0301",
            RuntimeError::Draws { .. } => "NXR0302",
            RuntimeError::Kernels(_) => "NXR0401",
            RuntimeError::Memory { .. } => "NXR0404",
            RuntimeError::Settings(_) => "NXR0402",
            RuntimeError::NotFinite { .. } => "NXR0403",
            RuntimeError::Text { .. } => "NXR0501",
            RuntimeError::Link(_) => "NXR0601",
            RuntimeError::Job(_) => "NXR0602",
            RuntimeError::Lost { .. } => "NXR0603",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            RuntimeError::Exists(_) => "give --force to replace it, or another name",
            RuntimeError::Plan(PlanError::Io { action: "read", .. }) => {
                "`neoxc compile` makes a plan"
            }
            RuntimeError::Plan(PlanError::Io { .. }) => return None,
            RuntimeError::Plan(PlanError::NotAPlan(_)) => "name another folder",
            RuntimeError::Plan(_) => "compile the plan again",
            RuntimeError::Checkpoint { .. } => {
                "to go on from an older checkpoint, write its folder's name into the file `latest`"
            }
            RuntimeError::Draws { .. } => {
                "resume with the configuration that wrote it, or give --allow-changes to go on with other samples"
            }
            RuntimeError::Memory { .. } => {
                "smaller micro-batches, `checkpoint_activations`, or more memory; `neoxc compile` \
                 prints what takes how much"
            }
            RuntimeError::Job(_) => "start all ranks with the same plan, options and program",
            RuntimeError::Lost { .. } => "go on with --resume from the last checkpoint",
            RuntimeError::NotFinite { .. } => "lower the learning rate; nothing was saved",
            _ => return None,
        })
    }

    /// Whether every rank of a job has this very error, so that one of them is enough to tell it.
    pub fn is_everybodys(&self) -> bool {
        use RuntimeError::{Draws, Job, NotFinite};
        matches!(self, Job(_) | NotFinite { .. } | Draws { .. })
    }

    /// The whole message: code, what happened, and the hint.
    pub fn message(&self) -> String {
        let hint = self.hint().map(|h| format!("\n  = hint: {h}")).unwrap_or_default();
        format!("error[{}]: {self}{hint}", self.code())
    }

    /// Exit code, as `neoxc --help` documents it.
    pub fn exit_code(&self) -> u8 {
        match self {
            RuntimeError::Io { .. } | RuntimeError::Exists(_) => 5,
            RuntimeError::Plan(PlanError::Io { .. }) => 5,
            RuntimeError::Kernels(_)
            | RuntimeError::Memory { .. }
            | RuntimeError::Link(_)
            | RuntimeError::NotFinite { .. } => 4,
            RuntimeError::Lost { .. } => 7,
            _ => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained() {
        let path = || PathBuf::from("f");
        let io = || std::io::Error::other("x");
        let plan = PlanError::Invalid("m".into());
        let all = [
            RuntimeError::Io { action: "read", path: path(), source: io() },
            RuntimeError::data(&path(), "m"),
            RuntimeError::Exists(path()),
            RuntimeError::Plan(plan),
            RuntimeError::checkpoint(&path(), "m"),
            RuntimeError::Draws { path: path(), what: "m".into() },
            RuntimeError::Kernels("m".into()),
            RuntimeError::Memory { needs: 2, available: 1, limit: "m".into() },
            RuntimeError::Settings("m".into()),
            RuntimeError::NotFinite { step: 1, what: "loss", value: f32::NAN, tensor: "t".into() },
            RuntimeError::text(&path(), "m"),
            RuntimeError::Link("m".into()),
            RuntimeError::Job("m".into()),
            crate::health::Loss { rank: 1, how: crate::health::How::Gone }.error(0, vec![1]),
        ];
        let codes: Vec<&str> = all.iter().map(RuntimeError::code).collect();
        for c in crate::codes::CODES {
            assert!(codes.contains(&c.code) && c.explanation.len() > 80, "{}", c.code);
        }
        assert!(codes.iter().all(|c| crate::codes::find(c).is_some()));
        assert_eq!(codes.len(), crate::codes::CODES.len());
    }
}
