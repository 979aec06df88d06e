//! What ZeRO was asked to divide and could not.

use std::collections::BTreeMap;

use neoxc_base::codes::undivided_state::undivided_state;
use neoxc_base::diag::{Diagnostic, Span};
use neoxc_frontend::Config;
use neoxc_ir::role::name_of;
use neoxc_ir::{Module, Role, keys};

/// The least share of the optimizer's state that is told of: biases and norms of odd sizes are less.
const LEAST: f64 = 0.01;

/// A warning where the data ranks each keep optimizer state whole although the configuration asks for ZeRO. `m` is a
/// module whose parameters have layouts.
pub fn warning(c: &Config, m: &Module) -> Option<Diagnostic> {
    let ranks = c.parallel.data;
    if c.parallel.zero_stage == 0 || ranks < 2 {
        return None;
    }
    // Elements of the state by parameter, of all data ranks together.
    let mut whole: BTreeMap<&str, usize> = BTreeMap::new();
    let mut divided = 0;
    for f in &m.functions {
        for (v, attrs) in Role::State.all(f) {
            let layout = attrs.strs(keys::LAYOUT).unwrap_or_default();
            let elements = f.ty(v).elements();
            match layout.contains(&"data") {
                true => divided += elements * ranks,
                false => *whole.entry(name_of(attrs)).or_default() += elements,
            }
        }
    }
    let undivided: usize = whole.values().sum();
    let share = undivided as f64 / (undivided + divided).max(1) as f64;
    let (name, _) = whole.iter().max_by_key(|(_, elements)| **elements)?;
    // One stands for those of all layers.
    let name = name.replace("{layer}", "0");
    let place = c.places.get("zero_optimization").map(|(file, line, column)| {
        let (line, column) = (*line, *column);
        Span { file: file.as_str().into(), line, column, length: 17 }
    });
    let told = || undivided_state(100.0 * share, ranks, (whole.len(), &name), place.as_ref());
    (share >= LEAST).then(told)
}
