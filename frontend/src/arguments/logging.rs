//! Arguments of logging, monitoring and profiling.

use super::{Argument, any, dict, flag, float, int, list, text};

const LINES: &str = "a run logs lines, or JSON with --json, which any monitor can read";
const PROFILE: &str = "`neoxc profile` measures every kernel of a plan";
const MEMORY: &str = "a plan's memory is known when it is compiled: `neoxc compile` prints it";
const NOISE: &str =
    "the gradient noise scale is not computed; GPT-NeoX ends in an error where it is asked for";
const ONLY_LOSS: &str = "a step reports loss, learning rate and the norm of all gradients";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    int("log_interval").number(100.0).between(1.0, 1e12).doc("Steps between log lines."),
    flag("use_wandb", false).unset().idle(LINES).doc("Log to Weights & Biases."),
    text("wandb_group").idle(LINES).doc("Group of the run at Weights & Biases."),
    text("wandb_run_name").idle(LINES).doc("Name of the run at Weights & Biases."),
    text("wandb_team").idle(LINES).doc("Team at Weights & Biases."),
    text("wandb_project").says("neox").idle(LINES).doc("Project at Weights & Biases."),
    text("wandb_host").says("https://api.wandb.ai").idle(LINES).doc("Server of Weights & Biases."),
    flag("wandb_init_all_ranks", false).idle(LINES).doc("Begin a run at Weights & Biases from every rank."),
    dict("wandb").idle(LINES).doc("DeepSpeed's settings of Weights & Biases."),
    text("git_hash").idle("a plan names the version that compiled it").doc("Commit of GPT-NeoX, which it sets itself."),
    text("log_dir").idle(LINES).doc("Folder for copies of stdout and stderr."),
    text("tensorboard_dir").idle(LINES).doc("Folder of TensorBoard's files."),
    dict("tensorboard").idle(LINES).doc("DeepSpeed's settings of TensorBoard."),
    dict("csv_monitor").idle(LINES).doc("DeepSpeed's settings of CSV files."),
    flag("use_comet", false).unset().idle(LINES).doc("Log to Comet."),
    text("comet_workspace").idle(LINES).doc("Workspace at Comet."),
    text("comet_project").idle(LINES).doc("Project at Comet."),
    text("comet_experiment_name").idle(LINES).doc("Name of the experiment at Comet."),
    list("comet_tags").idle(LINES).doc("Tags of the experiment at Comet."),
    dict("comet_others").idle(LINES).doc("Further values of the experiment at Comet."),
    any("comet_experiment").not_yet("it is an object of the Python program", "").doc("Comet's experiment, which GPT-NeoX sets itself."),
    float("peak_theoretical_tflops").idle("`neoxc profile` compares with what the machine was measured to do").doc("Peak of a GPU, to report the share of it that is used."),
    flag("log_grad_pct_zeros", false).idle(ONLY_LOSS).doc("Log how many gradients are zero."),
    flag("log_param_norm", false).idle("`neoxc inspect checkpoint` prints norms of weights, a run does not").doc("Log norms of weights."),
    flag("log_grad_norm", false).idle("the norm of all gradients is logged in any case, those of single tensors are not").doc("Log norms of gradients, tensor by tensor."),
    flag("log_optimizer_states", false).idle("`neoxc inspect checkpoint` prints norms of state, a run does not").doc("Log norms of the optimizer's state."),
    flag("log_gradient_noise_scale", false).idle(NOISE).doc("Log the gradient noise scale."),
    int("gradient_noise_scale_n_batches").number(5.0).idle(NOISE).doc("Batches of the gradient noise scale."),
    flag("gradient_noise_scale_cpu_offload", false).idle(NOISE).doc("Keep what the gradient noise scale needs on the CPU."),
    flag("memory_profiling", false).idle(MEMORY).doc("Record allocations of the GPU."),
    text("memory_profiling_path").idle(MEMORY).doc("File of recorded allocations."),
    flag("profile", false).idle(PROFILE).doc("Profile some steps."),
    int("profile_step_start").number(10.0).idle(PROFILE).doc("First step that is profiled."),
    int("profile_step_stop").number(12.0).idle(PROFILE).doc("Step at which profiling ends."),
    int("steps_per_print").number(10.0).idle("`log_interval` says it").doc("Steps between DeepSpeed's own lines."),
    flag("wall_clock_breakdown", false).idle(PROFILE).doc("Print DeepSpeed's times of forward, backward and update."),
    dict("flops_profiler").idle("`neoxc compile` prints a step's FLOPs").doc("DeepSpeed's count of FLOPs."),
    dict("comms_logger").idle("`neoxc profile` lists collectives with their times").doc("DeepSpeed's log of collectives."),
    flag("dump_state", false).idle("a plan can be read: `neoxc dump`").doc("Print DeepSpeed's state when a run starts."),
];
