//! What ZeRO was asked to divide and could not.

use std::collections::BTreeMap;

use neoxc_base::codes::undivided_state::undivided_state;
use neoxc_base::diag::{Diagnostic, Span};
use neoxc_frontend::Config;
use neoxc_ir::role::name_of;
use neoxc_ir::{Module, Role, keys};
use neoxc_passes::entries::Entry;

/// The least share of the optimizer's state that is told of: biases and norms of odd sizes are less.
const LEAST: f64 = 0.01;

/// A warning where the data ranks each keep whole what the configuration asks ZeRO to divide: the optimizer's state, or
/// from stage 3 on weights. `m` is a module whose parameters have layouts.
pub fn warning(c: &Config, m: &Module) -> Option<Diagnostic> {
    let ranks = c.parallel.data;
    if c.parallel.zero_stage == 0 || ranks < 2 {
        return None;
    }
    let mut asked = vec![(Role::State, "the optimizer's state")];
    if c.parallel.zero_stage >= 3 {
        asked.push((Role::Parameter, "the weights"));
    }
    let shares = asked.into_iter().map(|(role, what)| (share(m, role, ranks), what));
    let (worst, what) = shares.max_by(|(a, _), (b, _)| a.share.total_cmp(&b.share))?;
    if worst.share < LEAST {
        return None;
    }
    let place = c.places.get("zero_optimization").map(|(file, line, column)| {
        let (line, column) = (*line, *column);
        Span { file: file.as_str().into(), line, column, length: 17 }
    });
    let parameters = (worst.parameters, worst.largest.as_str());
    Some(undivided_state(100.0 * worst.share, what, ranks, parameters, place.as_ref()))
}

/// What of a role's values is whole on each data rank.
#[derive(Default)]
struct Share {
    /// Its part of all elements, from 0 to 1.
    share: f64,
    /// How many parameters it is of; one stands for those of all layers.
    parameters: usize,
    /// The largest of these.
    largest: String,
}

fn share(m: &Module, role: Role, ranks: usize) -> Share {
    // Elements by parameter, and of all data ranks together. Entries of one class of stages have the same parameters.
    let mut whole: BTreeMap<&str, usize> = BTreeMap::new();
    let mut divided: BTreeMap<&str, usize> = BTreeMap::new();
    for f in m.functions.iter().filter(|f| Entry::parse(&f.name).is_some_and(Entry::updates)) {
        for (v, attrs) in role.all(f) {
            let layout = attrs.strs(keys::LAYOUT).unwrap_or_default();
            let elements = f.ty(v).elements();
            match layout.contains(&"data") {
                true => *divided.entry(name_of(attrs)).or_default() += elements * ranks,
                false => *whole.entry(name_of(attrs)).or_default() += elements,
            }
        }
    }
    let (undivided, divided): (usize, usize) = (whole.values().sum(), divided.values().sum());
    let Some((name, _)) = whole.iter().max_by_key(|(_, elements)| **elements) else {
        return Share::default();
    };
    Share {
        share: undivided as f64 / (undivided + divided) as f64,
        parameters: whole.len(),
        largest: name.replace("{layer}", "0"),
    }
}
