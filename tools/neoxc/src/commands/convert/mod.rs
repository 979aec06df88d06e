//! `neoxc convert`: between checkpoints and Hugging Face's folders. Names, `config.json` and what a family's
//! class can express are the families' (`stdlib-models/src/families`); this knows files.

mod from_hf;
mod proof;
mod shards;
mod to_hf;
mod tokenizer;

use std::path::Path;

use neoxc_base::write::{Draft, folder_of};
use neoxc_driver::Compiled;
use neoxc_frontend::Config;

use crate::Failure;
use crate::cli::{Convert, TargetArgs};

/// Runs a conversion.
pub fn run(a: Convert) -> Result<(), Failure> {
    match a {
        Convert::NeoxToHf(a) => to_hf::run(&a),
        Convert::HfToNeox { dir, out } => from_hf::run(&dir, &out),
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |e| Failure::new(5, format!("error: {path}: {e}"))
}

fn bad(path: &Path, message: impl std::fmt::Display) -> Failure {
    Failure::new(3, format!("error: {}: {message}", path.display()))
}

fn refuse_existing(out: &Path) -> Result<(), Failure> {
    match out.exists() {
        true => Err(Failure::new(5, format!("error: {} exists already", out.display()))),
        false => Ok(()),
    }
}

fn compile(config: &Config) -> Result<Compiled, Failure> {
    let target = TargetArgs { target: vec![neoxc_ir::target::Target::X86Native], cache: None };
    super::compile_config(config, &target)
}

/// Begins the folder `out` under a temporary name.
fn draft(out: &Path) -> Result<Draft, Failure> {
    let parent = folder_of(out);
    std::fs::create_dir_all(parent).map_err(io(parent))?;
    Draft::folder(out).map_err(io(out))
}

/// Gives the folder its name.
fn finish(draft: Draft, out: &Path) -> Result<(), Failure> {
    refuse_existing(out)?;
    draft.place().map_err(io(out))
}
