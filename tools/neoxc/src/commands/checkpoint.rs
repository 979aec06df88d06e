//! A checkpoint without a plan: whether it is whole is known from its own configuration.

use std::collections::BTreeSet;
use std::path::Path;

use neoxc_driver::tensors::weights;
use neoxc_frontend::Config;
use neoxc_runtime::RuntimeError;
use neoxc_runtime::checkpoint::Reader;

/// Opens a checkpoint that has exactly the tensors of its configuration's model.
pub fn open(folder: &Path) -> Result<(Reader, Config), RuntimeError> {
    let bad = |what: String| RuntimeError::checkpoint(folder, what);
    let reader = Reader::open(folder)?;
    let config: Config = serde_json::from_value(reader.manifest.config.clone())
        .map_err(|e| bad(format!("its configuration cannot be read: {e}")))?;
    let model =
        weights(&config).map_err(|e| bad(format!("its configuration describes no model: {e}")))?;
    let mut known = BTreeSet::new();
    for weight in &model {
        for name in weight.names() {
            let entry = reader.entry(&name).ok_or_else(|| {
                bad(format!("has no {name}, which its configuration's model has"))
            })?;
            if entry.elements() != Some(weight.elements) {
                let what = format!("{name} is {:?}, its configuration's model has", entry.shape);
                return Err(bad(format!("{what} {} elements", weight.elements)));
            }
            known.insert(name);
        }
    }
    // The reader has found that every weight has its state, and this its weight.
    if let Some(name) = reader.manifest.weights().find(|n| !known.contains(*n)) {
        return Err(bad(format!("has {name}, which its configuration's model has not")));
    }
    Ok((reader, config))
}
