//! `neoxc opt`.

use neoxc_driver::pass::{PassCx, PassError};
use neoxc_driver::pipeline;

use super::told;
use crate::Failure;
use crate::cli::Opt;

/// Runs passes over a file and prints the result.
pub fn run(a: &Opt) -> Result<(), Failure> {
    if a.passes == ["list"] {
        for (phase, pass) in pipeline::PASSES {
            println!("{:<22} {:<10} {}", pass.name, phase.name(), pass.doc);
        }
        return Ok(());
    }
    let text = std::fs::read_to_string(&a.file)
        .map_err(|e| Failure::new(5, format!("error: cannot read {}: {e}", a.file.display())))?;
    let bad = |m: String| Failure::new(3, format!("error: {}:{m}", a.file.display()));
    let mut module = neoxc_ir::text::parse(&text).map_err(|e| bad(e.to_string()))?;
    neoxc_ir::verify(&module).map_err(|e| bad(format!(" {e}")))?;
    for name in &a.passes {
        let pass = pipeline::find(name).ok_or_else(|| {
            Failure::new(2, format!("error: no pass `{name}`; `--passes list` prints them"))
        })?;
        let report = pipeline::run_pass(&mut module, &pass, &PassCx::new(a.target)).map_err(
            |e| match &*e.error {
                PassError::Refused(d) => told(d),
                _ => Failure::new(3, format!("error: {e}")),
            },
        )?;
        for note in report.notes {
            eprintln!("{name}: {note}");
        }
    }
    print!("{}", neoxc_ir::text::print(&module));
    Ok(())
}
