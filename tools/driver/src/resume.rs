//! Going on from a dump: what a module says of its configuration, and the passes that have not run on it.
//!
//! `neox.config` has the checked configuration as `section.key=value` with values in JSON, a word per key, because a
//! plan holds it and the runtime reads its settings there. `neox.settings` and `neox.after` are the passes' own.

use std::time::Instant;

use neoxc_base::codes::unresumable_module::unresumable_module;
use neoxc_frontend::Config;
use neoxc_ir::{Attr, Module, keys};
use neoxc_passes::pipeline::{remaining, run_pass};
use neoxc_passes::{PassCx, Phase, place_memory};
use serde_json::{Map, Value};

use crate::{CompileError, Seen, flops};

/// What is wrong with a module to go on from.
pub fn refused(message: &str) -> CompileError {
    CompileError::Module(Box::new(unresumable_module(message)))
}

/// Writes a configuration at the head of a module.
pub fn note(config: &Config, m: &mut Module) {
    let sections = serde_json::to_value(config).unwrap_or_default();
    let mut words = vec![];
    for (section, keys) in sections.as_object().into_iter().flatten() {
        for (key, value) in keys.as_object().into_iter().flatten() {
            words.push(format!("{section}.{key}={value}"));
        }
    }
    m.attrs.set(keys::CONFIG, Attr::strs(&words));
}

/// The configuration at the head of a module.
pub fn config(m: &Module) -> Result<Config, CompileError> {
    let bad = |what: String| refused(&format!("`neox.config`: {what}"));
    let words = m.attrs.strs(keys::CONFIG);
    let words = words.ok_or_else(|| refused("the module has no `neox.config`"))?;
    let mut sections = Map::new();
    for word in words {
        let part = |text: &str| text.split_once('.').map(|(a, b)| (a.to_string(), b.to_string()));
        let found = word.split_once('=').and_then(|(path, value)| Some((part(path)?, value)));
        let ((section, key), text) =
            found.ok_or_else(|| bad(format!("`{word}` is not SECTION.KEY=VALUE")))?;
        let value: Value =
            serde_json::from_str(text).map_err(|e| bad(format!("{section}.{key}: {e}")))?;
        let keys = sections.entry(section).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(keys) = keys {
            keys.insert(key, value);
        }
    }
    serde_json::from_value(Value::Object(sections)).map_err(|e| bad(e.to_string()))
}

/// Runs the passes that have not run on `m`, up to the phase `last`; calls `seen` with each phase's module.
pub fn go_on(
    mut m: Module,
    cx: &PassCx,
    last: Phase,
    seen: Seen<'_>,
) -> Result<Module, CompileError> {
    let phases = remaining(&m).map_err(|e| refused(&e))?;
    if let Some(mesh) = m.attrs.strs(keys::MESH).filter(|mesh| *mesh != cx.degrees.text()) {
        let (has, given) = (mesh.join(" "), cx.degrees.text().join(" "));
        let message = format!("`neox.mesh` is {has}, but `neox.settings` has {given}");
        return Err(refused(&message));
    }
    if phases.is_empty() {
        // Nothing else would look at places that somebody has edited.
        place_memory::verify(&m).map_err(|e| refused(&e.to_string()))?;
        seen(Phase::Scheduled, &m, 0.0, vec![]);
    }
    for (phase, passes) in phases.into_iter().filter(|(phase, _)| *phase <= last) {
        let start = Instant::now();
        let mut notes = vec![];
        for pass in passes {
            let report = run_pass(&mut m, &pass, cx)?;
            notes.extend(report.notes.into_iter().map(|n| (pass.name.to_string(), n)));
        }
        if phase == Phase::Grad {
            // Counted while the program is whole: the same for every number of ranks.
            m.attrs.set(keys::FLOPS, Attr::Float(flops::of_entry(&m, "train_step")));
        }
        seen(phase, &m, start.elapsed().as_secs_f64() * 1e3, notes);
    }
    Ok(m)
}
