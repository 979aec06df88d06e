//! The file of metrics: a line of JSON for every step.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::run::{Observer, StepReport};
use crate::{RuntimeError, files};

/// The file of metrics. Where it cannot be written, the disk is full perhaps, training goes on without it, and the run says
/// so at its end.
pub struct MetricsLog {
    to: Option<(File, PathBuf)>,
    /// Why it has ended early, if it has.
    pub failed: Option<RuntimeError>,
}

impl MetricsLog {
    /// Opens `path`, if there is one, to add lines.
    pub fn open(path: Option<&Path>) -> Result<MetricsLog, RuntimeError> {
        let open = |path: &Path| files::open_log(path).map(|file| (file, path.to_path_buf()));
        Ok(MetricsLog { to: path.map(open).transpose()?, failed: None })
    }

    /// Adds a step's line.
    pub fn add(
        &mut self,
        report: &StepReport,
        watch: &mut dyn Observer,
    ) -> Result<(), RuntimeError> {
        let Some((file, path)) = &mut self.to else { return Ok(()) };
        let line = serde_json::to_string(report)
            .map_err(|e| RuntimeError::Settings(format!("metrics: {e}")))?;
        // In one piece: a kill leaves no half of it.
        let line = line + "\n";
        if let Err(e) = file.write_all(line.as_bytes()) {
            watch.warn(&format!(
                "cannot write {}: {e}; training goes on without metrics from step {} on",
                path.display(),
                report.step
            ));
            self.failed = Some(RuntimeError::io("write", path)(e));
            self.to = None;
        }
        Ok(())
    }
}
