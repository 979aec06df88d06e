//! Arguments of the launcher, and what GPT-NeoX's processes tell each other.

use super::{Argument, dict, flag, int, text, word};

const MPIRUN: &str = "ranks are threads, or processes that mpirun starts";
const ITSELF: &str = "GPT-NeoX sets it itself, and a plan needs no such value";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    text("hostfile").idle(MPIRUN).doc("File of hosts with their numbers of GPUs."),
    text("include").idle(MPIRUN).doc("Hosts and GPUs to use."),
    text("exclude").idle(MPIRUN).doc("Hosts and GPUs not to use."),
    int("num_nodes").number(-1.0).idle(MPIRUN).doc("Hosts to use, from the first on."),
    int("num_gpus").idle(MPIRUN).doc("GPUs of a host to use."),
    int("master_port").number(29_500.0).idle(MPIRUN).doc("Port on which processes find each other."),
    text("master_addr").idle(MPIRUN).doc("Host on which processes find each other."),
    word("launcher", "pdsh", &["pdsh", "openmpi", "mvapich", "slurm"], &[]).idle(MPIRUN).doc("What starts processes on other hosts."),
    flag("force_multi", false).idle(MPIRUN).doc("Use the launcher for a single host too."),
    flag("no_ssh_check", false).idle(MPIRUN).doc("Do not try ssh before starting."),
    text("comment").idle(MPIRUN).doc("Slurm's comment on the job."),
    text("account").idle(MPIRUN).doc("Slurm's account of the job."),
    flag("deepspeed_mpi", false).idle(MPIRUN).doc("Processes learn their ranks from MPI."),
    flag("deepspeed_slurm", false).idle(MPIRUN).doc("Processes learn their ranks from Slurm."),
    text("distributed_backend").says("nccl").idle("a plan's ranks meet in shared memory or over MPI").doc("Library of collectives."),
    int("local_rank").idle(ITSELF).doc("Number of a process on its host."),
    int("rank").idle(ITSELF).doc("Number of a process among all."),
    flag("lazy_mpu_init", false).idle(ITSELF).doc("Set up groups of ranks later, from outside."),
    text("user_script").idle(ITSELF).doc("The Python script that is run."),
    dict("config_files").idle(ITSELF).doc("Texts of the configuration files, which checkpoints hold."),
    flag("do_train", false).unset().idle("it follows from `train_iters`").doc("Whether there is training data."),
    flag("do_valid", false).unset().idle("it follows from `eval_iters`").doc("Whether there is validation data."),
    flag("do_test", false).unset().idle("no test data are evaluated").doc("Whether there is test data."),
    flag("onnx_safe", false).idle("no ONNX file is made").doc("Avoid operations that ONNX does not have."),
    flag("adlr_autoresume", false).idle("a run saves and ends at SIGTERM or SIGUSR1, and goes on with --resume").doc("Ask NVIDIA's cluster whether to stop and come back."),
    int("adlr_autoresume_interval").number(1000.0).unread().doc("Steps between such questions."),
];
