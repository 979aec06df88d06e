//! A step as a Chrome trace, which chrome://tracing and Perfetto show: a row per rank.

use std::io::{BufWriter, Result, Write};
use std::path::Path;

use neoxc_base::write::Draft;
use neoxc_plan::Plan;
use serde_json::json;

use crate::RuntimeError;
use crate::device::{Event, What};

/// Begins the file; an older one stays until [`write`] has written all of this one.
pub fn create(path: &Path) -> std::result::Result<Draft, RuntimeError> {
    Draft::file(path).map_err(RuntimeError::io("make", path))
}

/// Writes what each rank did; `events` is one list per rank.
pub fn write(mut draft: Draft, plan: &Plan, events: &[&[Event]]) -> Result<()> {
    let mut out = BufWriter::new(draft.open());
    let all = events.iter().enumerate().flat_map(|(rank, all)| all.iter().map(move |e| (rank, e)));
    out.write_all(b"[")?;
    for (n, (rank, e)) in all.enumerate() {
        let (name, category, args) = match e.what {
            What::Kernel(k) => {
                let k = &plan.tables.kernels[k as usize];
                (k.name.as_str(), k.family.as_str(), json!({"line": k.loc, "tasks": k.tasks}))
            }
            What::Collective(axis) => (super::axis_name(plan, axis), "collective", json!({})),
        };
        let (ts, dur) = (e.start * 1e6, e.seconds * 1e6);
        let event = json!({"name": name, "cat": category, "ph": "X", "ts": ts, "dur": dur,
                           "pid": 0, "tid": rank, "args": args});
        out.write_all(if n == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut out, &event)?;
    }
    out.write_all(b"\n]\n")?;
    out.flush()?;
    drop(out);
    draft.place()
}
