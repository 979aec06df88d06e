//! `freeze`: the parameters that are not trained, by patterns for their names.

use neoxc_base::codes::impossible_value;
use neoxc_base::codes::unknown_parameter::unknown_parameter;
use neoxc_base::diag::{Diagnostic, Span};
use neoxc_frontend::Config;
use neoxc_frontend::config::fits;
use neoxc_ir::{Attr, Module, Role, keys};

use crate::CompileError;

/// Marks the parameters that the configuration freezes: they have neither gradient nor state, and no update changes them.
///
/// # Errors
/// If no parameter's name fits a pattern, or none is left to train.
pub fn set_frozen(c: &Config, m: &mut Module) -> Result<(), CompileError> {
    let patterns = &c.optimizer.freeze;
    if patterns.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = vec![];
    for attrs in m.functions.iter_mut().flat_map(|f| &mut f.param_attrs) {
        let Some(name) = attrs.str(keys::PARAM).map(str::to_string) else { continue };
        if Role::Parameter.is(attrs) && patterns.iter().any(|p| fits(p, &name)) {
            attrs.set(keys::FROZEN, Attr::Bool(true));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let place = c.places.get("freeze").map(|(file, line, column)| {
        let (line, column) = (*line, *column);
        Span { file: file.as_str().into(), line, column, length: 6 }
    });
    let refused = |d| Err(CompileError::Refused(Box::new(d)));
    if let Some(unknown) = patterns.iter().find(|p| !names.iter().any(|name| fits(p, name))) {
        return refused(unknown_parameter(unknown, &names, place.as_ref()));
    }
    if names.iter().all(|name| patterns.iter().any(|p| fits(p, name))) {
        let message = format!("`freeze` has all of the {} parameters", names.len());
        let d = Diagnostic::error(&impossible_value::KIND, message);
        let d = place.iter().fold(d, |d, span| d.label(span, "nothing is trained"));
        return refused(d.hint("leave out a pattern, so that something is trained"));
    }
    Ok(())
}
