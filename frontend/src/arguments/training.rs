//! Arguments of a run: batches, steps, evaluation, checkpoints, recomputation, loss scaling.

use super::{Argument, any, dict, flag, float, int, list, text, word};

const SCALING: &str = "the keys of `fp16` say how the loss is scaled";
const NO_S3: &str = "checkpoints are written to a file system";
const PLANNED: &str = "the compiler plans what is kept and what is made again";
const RNG: &str = "random numbers follow from seed and step, and no state of them is saved";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    int("train_batch_size").between(1.0, 1_073_741_824.0).doc("Sequences of a step, over all ranks: micro-batch × accumulation steps × data-parallel size. What is missing of these follows from the others."),
    int("train_micro_batch_size_per_gpu").between(1.0, 1_048_576.0).doc("Sequences of a micro-batch."),
    int("batch_size").between(1.0, 1_048_576.0).doc("As `train_micro_batch_size_per_gpu`, which wins."),
    int("gradient_accumulation_steps").number(1.0).between(1.0, 1_048_576.0).doc("Micro-batches whose gradients are summed before a step."),
    int("train_iters").between(0.0, 1e12).doc("Steps of the run."),
    int("train_epochs").not_yet("the length of a run is given in steps", "set `train_iters`").doc("Passes over the training data."),
    int("seed").number(1234.0).between(0.0, 4_294_967_295.0).doc("Seed of start values, of the order of samples and of dropout."),
    int("eval_interval").number(1000.0).between(1.0, 1e12).doc("Steps between evaluations."),
    int("eval_iters").number(100.0).between(0.0, 1e12).doc("Batches of an evaluation, each of as many sequences as a step has."),
    int("exit_interval").between(1.0, 1e12).doc("The run ends after the first step that is a multiple of this, as in GPT-NeoX without a checkpoint unless one is due."),
    flag("char_level_ppl", false).not_yet("perplexity is per token", "").doc("Report perplexity per character."),
    text("save").doc("Folder that checkpoints are written to."),
    text("load").doc("Without --resume: go on from the newest checkpoint in this folder."),
    word("checkpoint_scale", "linear", &["linear", "log"], &[]).doc("Checkpoints at equal distances, or at distances that grow by a factor."),
    any("checkpoint_factor").doc("Steps between checkpoints, a whole number; with `checkpoint_scale: log` the factor between their steps, from 1.001."),
    list("extra_save_iters").doc("Further steps to write a checkpoint at; 0 is before the first step."),
    int("keep_last_n_checkpoints").between(1.0, 1e12).doc("Checkpoints to keep: older ones are removed after a new one is whole."),
    flag("no_save_optim", false).unread().doc("Leave the optimizer's state out of checkpoints."),
    flag("no_save_rng", false).idle(RNG).doc("Leave the state of random numbers out of checkpoints."),
    flag("no_load_optim", false).doc("Go on from the checkpoint that `load` names without the optimizer's state, which begins anew; `--resume` takes all."),
    flag("no_load_rng", false).idle(RNG).doc("Resume without the state of random numbers."),
    flag("finetune", false).doc("Take only weights from the checkpoint that `load` names, and start at step 0."),
    int("iteration").between(0.0, 1e12).doc("Step of the checkpoint to take of those that `load` names; the newest without it."),
    flag("checkpoint_validation_with_forward_pass", false).idle("every tensor of a checkpoint has a hash, which is verified when it is read").doc("Compare logits after a checkpoint is loaded with those saved in it."),
    dict("checkpoint").not_yet("checkpoints have a form of their own", "").doc("DeepSpeed's settings of checkpoints."),
    text("s3_path").not_yet(NO_S3, "copy finished folders: a checkpoint appears only when it is whole").doc("Where in S3 checkpoints are copied to."),
    int("s3_chunk_size").number(104_857_600.0).not_yet(NO_S3, "").doc("Bytes of a part of an upload to S3."),
    flag("checkpoint_activations", false).doc("Keep only layers' inputs, and make the rest again in the backward pass: less memory, a third more time."),
    int("checkpoint_num_layers").number(1.0).between(1.0, 100_000.0).doc("Layers that are made again together; a divisor of `num_layers`, else the next smaller one."),
    flag("deepspeed_activation_checkpointing", true).idle(PLANNED).doc("Use DeepSpeed's recomputation."),
    flag("contiguous_checkpointing", false).idle(PLANNED).doc("Copy kept activations into one buffer."),
    flag("checkpoint_in_cpu", false).not_yet("activations stay on the device", "").doc("Move kept activations to the CPU's memory."),
    flag("synchronize_each_layer", false).idle(PLANNED).doc("Wait for the device after each layer of the recomputation."),
    flag("profile_backward", false).idle("`neoxc profile` measures every kernel").doc("Time the backward pass of recomputed layers."),
    flag("partition_activations", false).idle(PLANNED).doc("Divide kept activations over tensor ranks."),
    dict("activation_checkpointing").not_yet("`checkpoint_activations` and `checkpoint_num_layers` say what is kept", "use those two").doc("DeepSpeed's settings of recomputation."),
    dict("fp16").doc("16-bit training, if `enabled`: as `precision: fp16`, or with `type: bfloat16` as `precision: bfloat16`. Its other keys say how fp16 scales the loss."),
    dict("bf16").doc("bf16 training, if `enabled`: as `precision: bfloat16`."),
    dict("data_types").doc("DeepSpeed's dtypes: `grad_accum_dtype` may only be `fp32`, in which gradients are summed."),
    dict("amp").not_yet("mixed precision is `precision: bfloat16`", "use `precision: bfloat16`").doc("NVIDIA Apex's mixed precision."),
    int("hysteresis").number(2.0).unread().doc("Overflows before the loss scale is halved."),
    flag("dynamic_loss_scale", false).unset().idle(SCALING).doc("Adapt the loss scale."),
    float("loss_scale").idle(SCALING).doc("A fixed loss scale."),
    float("loss_scale_window").number(1000.0).unread().doc("Steps after which the loss scale is doubled."),
    float("min_scale").number(1.0).unread().doc("Least loss scale."),
];
