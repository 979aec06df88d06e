//! `neoxc convert`: between checkpoints and Hugging Face's folders. Names, `config.json` and what a family's
//! class can express are the families' (`stdlib-models/src/families`); this knows files.

mod from_hf;
mod proof;
mod shards;
mod to_hf;
mod tokenizer;

use std::path::{Path, PathBuf};

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

/// A folder that is filled under a temporary name beside the one that it gets in the end; dropped before, it goes.
struct Draft {
    at: PathBuf,
    out: PathBuf,
}

impl Draft {
    fn of(out: &Path) -> Result<Draft, Failure> {
        let name = out.file_name().map(|n| n.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| bad(out, "is no name for a folder"))?;
        let parent = neoxc_runtime::files::folder_of(out);
        std::fs::create_dir_all(parent).map_err(io(parent))?;
        let at = parent.join(format!(".{name}.{}.tmp", std::process::id()));
        std::fs::create_dir(&at).map_err(io(&at))?;
        Ok(Draft { at, out: out.to_path_buf() })
    }

    /// Gives the folder its name.
    fn finish(self) -> Result<(), Failure> {
        refuse_existing(&self.out)?;
        std::fs::rename(&self.at, &self.out).map_err(io(&self.out))?;
        Ok(neoxc_runtime::files::sync_folder(neoxc_runtime::files::folder_of(&self.out))?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After `finish` there is none of this name.
        let _ = std::fs::remove_dir_all(&self.at);
    }
}
