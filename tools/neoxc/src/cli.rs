//! The command line as clap sees it. Other tools rely on these names: they only grow.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use neoxc_runtime::command::{RunArgs, threads};

/// Compile and run GPT-NeoX training configurations.
#[derive(Debug, Parser)]
#[command(name = "neoxc", version, about, long_about = None, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Shown under `--help`, and in the README.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  internal error: a bug in neoxc; the message names the file that replays it
  2  the command line is wrong
  3  the configuration or an input file is wrong (diagnostics on stderr)
  4  the run failed: a non-finite loss, too little memory, a kernel that cannot be loaded
  5  a file or folder cannot be read or written
  6  stopped by SIGTERM or SIGUSR1: the run saved a checkpoint after the step it was at
  7  under mpirun: another rank died, was silent for --timeout seconds, or failed

NEOXC_LOG=info prints what each pass found.";

/// A temperature: what divides logits.
fn temperature(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_string())?;
    match value.is_finite() && value >= 0.0 {
        true => Ok(value),
        false => Err("it must be a finite number from 0 on".into()),
    }
}

/// A part of all probability.
fn probability(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_string())?;
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err("it must be from 0 to 1".into()),
    }
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile configuration files into a plan.
    Compile(Compile),
    /// Train: execute a plan, or compile configuration files first.
    Run(Run),
    /// Check configuration files and say all that is wrong with them.
    Check(Check),
    /// Print a phase of a plan's IR.
    Dump(Dump),
    /// Explain a diagnostic code, an argument, or a value of a plan.
    Explain(Explain),
    /// Run passes over an IR file and print the result.
    Opt(Opt),
    /// Print the `neox` dialect as IRDL.
    Dialect,
    /// Tokenizers.
    #[command(subcommand)]
    Tokenizer(Tokenizer),
    /// Data sets.
    #[command(subcommand)]
    Data(Data),
    /// Sample text from a trained model.
    Generate(Generate),
    /// Convert checkpoints to and from Hugging Face's folders.
    #[command(subcommand)]
    Convert(Convert),
    /// Print a script that completes neoxc's commands, flags and values in a shell.
    Completions(Completions),
    /// Look into checkpoints.
    #[command(subcommand)]
    Inspect(Inspect),
    /// Measure what the time of a step, or of a token, goes to, kernel by kernel, beside what this machine can do.
    Profile(Profile),
    /// Measure, for each matmul of a plan, ways to divide it that should be equally fast, and use the
    /// fastest whenever this machine compiles that matmul. Results keep their bits.
    Tune(Tune),
}

/// `neoxc tune`.
#[derive(Debug, Args)]
pub struct Tune {
    /// The plan, compiled for x86-64-native.
    #[arg(long, value_name = "PLAN")]
    pub plan: PathBuf,
    /// Run the plan although others may write to its files: a plan is code.
    #[arg(long)]
    pub trust_plan: bool,
    /// Where compiled kernels are kept [default: $NEOXC_CACHE or ~/.cache/neoxc].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// `neoxc completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: neoxc completions bash > ~/.local/share/bash-completion/completions/neoxc"
)]
pub struct Completions {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `neoxc profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// The plan; it is trained on made-up tokens, and nothing is saved.
    #[arg(long, value_name = "PLAN")]
    pub plan: PathBuf,
    /// Run the plan although others may write to its files: a plan is code.
    #[arg(long)]
    pub trust_plan: bool,
    /// Steps that are measured, after two that are not.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Make N tokens of text instead of steps, each by itself from those before it.
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: Option<u32>,
    /// Rows to print; 0 for all.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub top: usize,
    /// Write the last step to FILE, for chrome://tracing or Perfetto.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// What to look into.
#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// The tree of tensors with shapes, norms and hashes; every part is verified.
    Checkpoint {
        /// A global_stepN folder.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Say how it differs from this one instead.
        #[arg(long, value_name = "OTHER")]
        diff: Option<PathBuf>,
    },
}

/// Where the configuration comes from.
#[derive(Debug, Args, Clone)]
pub struct ConfigArgs {
    /// Configuration files, merged from left to right (`.yml` may be left out).
    #[arg(value_name = "CONFIG")]
    pub configs: Vec<PathBuf>,
    /// Folder that the configuration files are in.
    #[arg(short = 'd', long = "dir", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Override a key; dots reach into dictionaries (`optimizer.params.lr=0.001`).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// How to compile.
#[derive(Debug, Args, Clone, Default)]
pub struct TargetArgs {
    /// Targets, comma-separated; the first x86 one is what `run` uses [default: x86-64-native].
    #[arg(long, value_delimiter = ',', value_name = "TARGET")]
    pub target: Vec<neoxc_ir::target::Target>,
    /// Where compiled kernels are kept [default: $NEOXC_CACHE or ~/.cache/neoxc].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// `neoxc compile`.
#[derive(Debug, Args)]
pub struct Compile {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Target.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Go on from a dump instead: FILE.mlir has the configuration, and what passes were given, at its head.
    #[arg(long, value_name = "FILE.mlir", conflicts_with_all = ["configs", "sets", "dir"])]
    pub from: Option<PathBuf>,
    /// Cluster that the plan is for: prints what it asks of each rank, and refuses what does not fit.
    #[arg(long, value_name = "FILE")]
    pub cluster: Option<PathBuf>,
    /// Where to write the plan [default: plan].
    #[arg(short, long, value_name = "PLAN")]
    pub output: Option<PathBuf>,
    /// Print a phase's IR (`model`, …), or write every phase with `all=DIR`.
    #[arg(long, value_name = "PHASE|all=DIR")]
    pub dump: Option<String>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// `neoxc run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The plan.
    #[arg(long, value_name = "PLAN", conflicts_with_all = ["configs", "sets", "dir", "target"])]
    pub plan: Option<PathBuf>,
    /// Run the plan although others may write to its files: a plan is code.
    #[arg(long, requires = "plan")]
    pub trust_plan: bool,
    /// Configuration, when no plan is given.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Target.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Run options.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `neoxc check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Write NAME.fixed.yml beside each file that has a problem with one answer, comments kept, and check these.
    #[arg(long)]
    pub fix: bool,
}

/// `neoxc dump`.
#[derive(Debug, Args)]
pub struct Dump {
    /// The plan.
    #[arg(long, value_name = "PLAN")]
    pub plan: PathBuf,
    /// model, rewritten, grad, sharded, fused, scheduled or kernels.
    #[arg(long, value_name = "PHASE")]
    pub phase: String,
    /// Only this function (or kernel).
    #[arg(long, value_name = "NAME")]
    pub function: Option<String>,
}

/// `neoxc explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// A diagnostic code such as NX0101, an argument such as seq_length, or with --plan a value such as %12 or
    /// @function%12.
    #[arg(value_name = "CODE|KEY|%VALUE")]
    pub what: String,
    /// The plan that %VALUE belongs to.
    #[arg(long, value_name = "PLAN")]
    pub plan: Option<PathBuf>,
}

/// `neoxc opt`.
#[derive(Debug, Args)]
pub struct Opt {
    /// IR text.
    #[arg(value_name = "FILE.mlir")]
    pub file: PathBuf,
    /// Passes, comma-separated; `list` prints their names.
    #[arg(long, value_delimiter = ',', value_name = "a,b,c")]
    pub passes: Vec<String>,
    /// Target that costs are taken from [default: the file's, or x86-64-native].
    #[arg(long, value_name = "TARGET")]
    pub target: Option<neoxc_ir::target::Target>,
    /// Override a setting of the passes, which the file has in `neox.settings` (`tensor=2`).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// `neoxc tokenizer`.
#[derive(Debug, Subcommand)]
pub enum Tokenizer {
    /// Train a byte-level BPE tokenizer on jsonl text.
    Train {
        /// jsonl files with a `text` key.
        #[arg(required = true, value_name = "JSONL")]
        inputs: Vec<PathBuf>,
        /// Number of tokens.
        #[arg(long, default_value_t = 4096, value_name = "N")]
        vocab_size: usize,
        /// Where to write tokenizer.json.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Replace an existing file.
        #[arg(long)]
        force: bool,
    },
}

/// `neoxc data`.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Tokenize jsonl into PREFIX_text_document.bin and .idx.
    Preprocess {
        /// jsonl files with a `text` key.
        #[arg(required = true, value_name = "JSONL")]
        inputs: Vec<PathBuf>,
        /// Kind of tokenizer, as `tokenizer_type`.
        #[arg(long, default_value = "HFTokenizer", value_name = "TYPE")]
        tokenizer_type: String,
        /// Tokenizer file.
        #[arg(long, value_name = "FILE")]
        vocab_file: PathBuf,
        /// Merges file, for GPT2BPETokenizer.
        #[arg(long, value_name = "FILE")]
        merge_file: Option<PathBuf>,
        /// Put the end-of-document token after each document.
        #[arg(long)]
        append_eod: bool,
        /// PREFIX of the files to write.
        #[arg(short, long, value_name = "PREFIX")]
        output_prefix: PathBuf,
        /// Replace existing files.
        #[arg(long)]
        force: bool,
    },
}

/// `neoxc generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// The plan; its save folder's latest checkpoint is used unless --checkpoint is given.
    #[arg(long, value_name = "PLAN", required_unless_present = "checkpoint")]
    pub plan: Option<PathBuf>,
    /// Run the plan although others may write to its files: a plan is code.
    #[arg(long, requires = "plan")]
    pub trust_plan: bool,
    /// A global_stepN folder (compiles the model in it when no plan is given).
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Text to go on from.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// 0 takes the likeliest token; higher is more random.
    #[arg(long, default_value_t = 0.8, value_parser = temperature)]
    pub temperature: f32,
    /// Only the K likeliest tokens (0: all).
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability (0: all).
    #[arg(long, default_value_t = 0.0, value_parser = probability)]
    pub top_p: f32,
    /// Tokens to sample at most.
    #[arg(long, default_value_t = 64)]
    pub max_tokens: usize,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 1234)]
    pub seed: u64,
    /// Threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// Storage dtype of converted weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// IEEE binary16, rounded to nearest even.
    Fp16,
}

/// `neoxc convert`.
#[derive(Debug, Subcommand)]
pub enum Convert {
    /// A Hugging Face folder (config.json + safetensors) to a checkpoint.
    HfToNeox {
        /// The Hugging Face folder.
        dir: PathBuf,
        /// Folder to make.
        out: PathBuf,
    },
    /// A global_stepN folder to a Hugging Face folder, which appears once its logits are those of the checkpoint.
    NeoxToHf(NeoxToHf),
}

/// `neoxc convert neox-to-hf`.
#[derive(Debug, Args)]
pub struct NeoxToHf {
    /// The global_stepN folder.
    pub checkpoint: PathBuf,
    /// Folder to make; OUT.certificate.json says what was compared.
    pub out: PathBuf,
    /// Storage dtype.
    #[arg(long, value_enum, default_value = "fp32")]
    pub precision: Precision,
    /// Size above which weights are several files: a number of bytes, KB, MB, GB, KiB, MiB or GiB.
    #[arg(long, default_value = "5GB", value_name = "SIZE", value_parser = size)]
    pub max_shard_size: usize,
    /// The tokenizer.json to carry, if not the one that the checkpoint's configuration names.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

/// A size such as `5GB`, bytes.
fn size(text: &str) -> Result<usize, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: usize = match unit.trim() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("{other:?} is no unit: B, KB, MB, GB, KiB, MiB or GiB")),
    };
    let bytes = number.parse::<usize>().ok().and_then(|n| n.checked_mul(unit));
    bytes.filter(|n| *n > 0).ok_or_else(|| "a number above 0 with a unit, such as 5GB".into())
}
