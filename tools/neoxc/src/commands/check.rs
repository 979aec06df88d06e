//! `neoxc check`.

use std::path::{Path, PathBuf};

use neoxc_frontend::fix::fixed;
use neoxc_ir::target::Target;
use neoxc_runtime::files::write_bytes;

use super::{internal, load_with_sources, options};
use crate::cli::{Check, ConfigArgs, TargetArgs};
use crate::{Failure, render};

/// Says all that is wrong with a configuration.
pub fn run(a: &Check) -> Result<(), Failure> {
    let config = if a.fix { written(&a.config)? } else { None };
    let (c, sources) = load_with_sources(config.as_ref().unwrap_or(&a.config))?;
    // What only the built model shows: whatever is fine here compiles.
    let options = options(&TargetArgs::default(), Target::X86Native, None, true);
    let warnings = neoxc_driver::check(&c, &options).map_err(|e| internal(&e))?;
    render::report(&warnings, &sources);
    println!(
        "ok: {} layers, width {}, {} heads, {} tokens × {} sequences × {} micro-batches per step",
        c.model.num_layers,
        c.model.hidden_size,
        c.model.num_attention_heads,
        c.model.seq_length,
        c.run.micro_batch,
        c.run.grad_accum
    );
    Ok(())
}

/// Writes what can be corrected beside the files, which stay as they are; the configuration with the new files in their
/// places, where there are any.
fn written(a: &ConfigArgs) -> Result<Option<ConfigArgs>, Failure> {
    let loaded = neoxc_frontend::load(&a.configs, a.dir.as_deref(), &a.sets);
    let fixes = fixed(&loaded.diagnostics, &loaded.sources);
    if fixes.is_empty() {
        eprintln!("nothing has one answer: no file is written");
        return Ok(None);
    }
    render::report(&loaded.diagnostics, &loaded.sources);
    let dir = a.dir.as_deref().unwrap_or(Path::new(""));
    let mut configs: Vec<PathBuf> =
        a.configs.iter().map(|c| neoxc_frontend::merge::resolve(c, Some(dir))).collect();
    for f in fixes {
        let new = Path::new(&f.file).with_extension("fixed.yml");
        write_bytes(&new, f.text.as_bytes())?;
        println!("wrote {}, for {}", new.display(), f.file);
        for change in &f.changes {
            println!("  {change}");
        }
        for c in configs.iter_mut().filter(|c| c.display().to_string() == f.file) {
            c.clone_from(&new);
        }
    }
    Ok(Some(ConfigArgs { configs, dir: None, sets: a.sets.clone() }))
}
