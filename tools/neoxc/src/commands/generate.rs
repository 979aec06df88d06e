//! `neoxc generate`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use neoxc_base::codes::checkpoint::checkpoint as damaged;
use neoxc_base::codes::command_line::incomplete;
use neoxc_base::codes::settings::settings as settings_of;
use neoxc_plan::Plan;
use neoxc_runtime::checkpoint;
use neoxc_runtime::generate::{Sampling, generate};
use neoxc_runtime::ranks::Ranks;
use neoxc_runtime::text::TextTokenizer;

use super::{threads, told};
use crate::Failure;
use crate::cli::Generate;

/// What helps where no checkpoint is found.
const HINT: &str = "give --checkpoint FOLDER";

/// Samples text.
pub fn run(a: &Generate) -> Result<(), Failure> {
    let plan = match (&a.plan, &a.checkpoint) {
        (Some(folder), _) => Plan::open_to_run(folder, a.trust_plan)?,
        (None, Some(folder)) => compile_checkpoint(folder)?,
        (None, None) => {
            let hint = "give --plan PLAN or --checkpoint FOLDER";
            return Err(told(&incomplete("nothing says which model makes the text", hint)));
        }
    };
    let settings = neoxc_runtime::train::settings(&plan)?;
    let folder = match &a.checkpoint {
        Some(folder) => folder.clone(),
        None => {
            let save =
                settings.run.save.as_ref().ok_or_else(|| {
                    told(&settings_of("the plan saves no checkpoints").hint(HINT))
                })?;
            checkpoint::latest(Path::new(save))?.ok_or_else(|| {
                let looked = "as the plan's `save` names it from this folder";
                told(&settings_of(&format!("no checkpoint in {save}, {looked}")).hint(HINT))
            })?
        }
    };
    let path = |p: &Option<String>| p.as_ref().map(PathBuf::from);
    let (vocab, merges) = (path(&settings.run.vocab_file), path(&settings.run.merge_file));
    let t = TextTokenizer::open(&settings.run.tokenizer_type, vocab.as_deref(), merges.as_deref())?;
    let mut ranks = Ranks::new(&plan, threads(a.threads))?;
    ranks.load_model(&folder)?;
    let how = Sampling {
        temperature: a.temperature,
        top_k: a.top_k,
        top_p: a.top_p,
        max_tokens: a.max_tokens,
        seed: a.seed,
    };
    let prompt = t.encode(&a.prompt)?;
    let live = std::io::stderr().is_terminal();
    let (mut count, start) = (0, std::time::Instant::now());
    let new = generate(&plan, &mut ranks, &prompt, how, t.size(), t.end_of_text(), |_| {
        count += 1;
        if live {
            eprint!("\r{count} tokens");
            let _ = std::io::stderr().flush();
        }
    })?;
    if live {
        eprint!("\r              \r");
    }
    let seconds = start.elapsed().as_secs_f64();
    let tokens = prompt.len() + new.len();
    eprintln!(
        "{tokens} tokens, {:.0} tokens/s, {} of them the prompt's",
        tokens as f64 / seconds,
        prompt.len()
    );
    println!("{}{}", a.prompt, t.decode(&new)?);
    Ok(())
}

/// A plan for the model that a checkpoint's own configuration describes.
fn compile_checkpoint(folder: &std::path::Path) -> Result<Plan, Failure> {
    let manifest = checkpoint::manifest(folder)?;
    let config = serde_json::from_value(manifest.config).map_err(|e| {
        told(&damaged(&folder.display(), &format!("the configuration inside: {e}")))
    })?;
    let target =
        crate::cli::TargetArgs { target: vec![neoxc_ir::target::Target::X86Native], cache: None };
    Ok(super::compile_config(&config, &target)?.plan)
}
