//! Arguments of training after pre-training: preferences, rewards, soft prompts, online data.

use neoxc_base::codes::{online_data, post_training, soft_prompts};

use super::{Argument, any, dict, flag, float, list, text, word};

const NO_PAIRS: &str = "pairs of preferred and refused answers are not read";
const NO_REWARDS: &str = "rewards are not read";
const NO_LOSS: &str = "the loss is the cross entropy of the next token";
const ONLINE: &str = "a run trains on files, not on what a server sends";
const NORMAL: &str = "use `train_impl: normal`";
const TO_HF: &str = "`neoxc convert neox-to-hf`, and a library for preference learning";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    word("train_impl", "normal", &["normal"], &["dpo", "rm", "kto", "reinforce"]).waits(&post_training::KIND, NO_LOSS, TO_HF)
        .doc("What is learned: the next token, preferences (`dpo`, `kto`), a reward model (`rm`) or rewards (`reinforce`)."),
    list("train_reward_data_paths").waits(&post_training::KIND, NO_REWARDS, NORMAL).doc("Rewards of the training data."),
    list("valid_reward_data_paths").waits(&post_training::KIND, NO_REWARDS, NORMAL).doc("Rewards of the validation data."),
    list("test_reward_data_paths").waits(&post_training::KIND, NO_REWARDS, NORMAL).doc("Rewards of the test data."),
    list("pos_train_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Preferred answers to train on."),
    list("neg_train_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Refused answers to train on."),
    list("pos_train_label_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Labels of preferred answers to train on."),
    list("neg_train_label_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Labels of refused answers to train on."),
    list("pos_valid_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Preferred answers for validation."),
    list("neg_valid_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Refused answers for validation."),
    list("pos_valid_label_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Labels of preferred answers for validation."),
    list("neg_valid_label_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Labels of refused answers for validation."),
    list("pos_test_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Preferred answers for testing."),
    list("neg_test_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Refused answers for testing."),
    list("pos_test_label_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Labels of preferred answers for testing."),
    list("neg_test_label_data_paths").waits(&post_training::KIND, NO_PAIRS, NORMAL).doc("Labels of refused answers for testing."),
    flag("dpo_fp32", true).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Compute DPO's log-probabilities in f32."),
    flag("dpo_reference_free", false).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("DPO without a reference model."),
    float("dpo_beta").number(0.1).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Strength of DPO's preference over the reference model."),
    flag("kto_fp32", true).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Compute KTO's log-probabilities in f32."),
    float("kto_desirable_weight").number(1.0).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Weight of preferred answers in KTO."),
    float("kto_undesirable_weight").number(1.0).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Weight of refused answers in KTO."),
    float("kto_beta").number(0.1).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Strength of KTO's preference over the reference model."),
    float("z_loss").number(0.0).waits(&post_training::KIND, "only the loss of a reward model has it, in GPT-NeoX too", "").doc("Weight of the squares of a reward model's values in its loss; in pre-training nothing reads it."),
    flag("fp32_reinforce", true).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Compute REINFORCE's log-probabilities in f32."),
    word("kl_impl", "mse", &["mse"], &["abs", "kl", "full"]).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("How REINFORCE measures the distance from the reference model."),
    float("kl_div_beta").number(0.1).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("Weight of that distance."),
    flag("reinforce_leave_one_out", false).waits(&post_training::KIND, NO_LOSS, TO_HF).doc("REINFORCE's baseline is the mean reward of a prompt's other answers."),
    text("precompute_model_name").waits(&post_training::KIND, "log-probabilities of a reference model are not read", TO_HF).doc("Name of the reference model whose log-probabilities lie beside the data."),
    dict("soft_prompt_tuning").waits(&soft_prompts::KIND, "all parameters are trained, and no tokens are put before a sequence", "").doc("Train a few embeddings put before each sequence, and nothing else."),
    flag("serve_model_weights", false).waits(&online_data::KIND, ONLINE, "").doc("Give weights to a server of samples while a run goes on."),
    any("weight_server_port").number(6000.0).unread().doc("Port on which weights are given."),
    any("online_dataserver_ips").says("localhost").waits(&online_data::KIND, ONLINE, "").doc("Hosts that send samples."),
    any("online_dataserver_ports").number(10_000.0).waits(&online_data::KIND, ONLINE, "").doc("Their ports."),
];
