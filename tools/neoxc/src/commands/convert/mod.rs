//! `neoxc convert`: between checkpoints and Hugging Face's folders. Names, `config.json` and what a family's
//! class can express are the families' (`stdlib-models/src/families`); this knows files.

mod from_hf;
mod proof;
mod shards;
mod to_hf;
mod tokenizer;

use std::fmt::Display;
use std::path::Path;

use neoxc_base::codes::io::io;
use neoxc_base::codes::{exists, hugging_face};
use neoxc_base::write::{Draft, folder_of};
use neoxc_driver::Compiled;
use neoxc_frontend::Config;

use super::told;
use crate::Failure;
use crate::cli::{Convert, TargetArgs};

/// Runs a conversion.
pub fn run(a: Convert) -> Result<(), Failure> {
    match a {
        Convert::NeoxToHf(a) => to_hf::run(&a),
        Convert::HfToNeox { dir, out } => from_hf::run(&dir, &out),
    }
}

fn reading(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |e| told(&io("read", &path, &e, "give a folder that can be read, with all of its files"))
}

fn writing(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |e| told(&io("write", &path, &e, "give another folder, on a disk with room"))
}

/// A Hugging Face folder is not whole.
fn bad(path: &Path, why: impl Display) -> Failure {
    refused(path, why, hugging_face::WHOLE)
}

/// A file, folder or model cannot be converted, and `hint` says what helps.
fn refused(path: &Path, why: impl Display, hint: &str) -> Failure {
    told(&hugging_face::hugging_face(&path.display(), &why, hint))
}

fn refuse_existing(out: &Path) -> Result<(), Failure> {
    match out.exists() {
        true => Err(told(&exists::kept(&out.display()))),
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
    std::fs::create_dir_all(parent).map_err(writing(parent))?;
    Draft::folder(out).map_err(writing(out))
}

/// Gives the folder its name.
fn finish(draft: Draft, out: &Path) -> Result<(), Failure> {
    refuse_existing(out)?;
    draft.place().map_err(writing(out))
}
