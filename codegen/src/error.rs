//! What can go wrong below the IR.

/// A failure of code generation; each names the kernel or file it is about.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// A kernel function that its family cannot express.
    #[error("kernel @{kernel}: {message}")]
    Kernel {
        /// Kernel function.
        kernel: String,
        /// What is missing.
        message: String,
    },
    /// MLIR or LLVM refused what we emitted.
    #[error("kernel @{kernel}: {stage}: {message}")]
    Lower {
        /// Kernel function.
        kernel: String,
        /// Which step.
        stage: &'static str,
        /// The tool's words.
        message: String,
    },
    /// The linker failed.
    #[error("linking the kernels: {0}")]
    Link(String),
    /// What this machine lacks to compile: threads, a linker, or room for temporary files.
    #[error("compiling kernels: {0}")]
    Machine(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The scheduled program does not say what the plan needs.
    #[error("scheduled program: {0}")]
    Schedule(String),
}

impl CodegenError {
    /// A [`CodegenError::Kernel`].
    pub fn kernel(kernel: &str, message: impl Into<String>) -> Self {
        Self::Kernel { kernel: kernel.to_string(), message: message.into() }
    }
}
