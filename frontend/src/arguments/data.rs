//! Arguments of training data and the tokenizer.

use super::{Argument, dict, flag, float, int, list, text, word};

const NO_TEST: &str = "no test data are evaluated";
const ORDER: &str = "samples come in GPT-NeoX's order, at the full length";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    text("data_path").doc("One data set (the path without `.bin`), which `split` divides into training, validation and test."),
    list("train_data_paths").doc("Training data: paths without `.bin`, whose samples are blended."),
    list("valid_data_paths").doc("Validation data, in the same way."),
    list("test_data_paths").idle(NO_TEST).doc("Test data: paths without `.bin`."),
    text("split").says("969, 30, 1").doc("Parts of `data_path` for training, validation and test, in any unit; boundaries are at documents."),
    list("train_data_weights").doc("Shares of the samples that each of `train_data_paths` has, in any unit; equal ones without it."),
    list("valid_data_weights").doc("The same for `valid_data_paths`."),
    list("test_data_weights").idle(NO_TEST).doc("The same for `test_data_paths`."),
    flag("weight_by_num_documents", false).doc("The weights follow from numbers of documents: with q the shares of all documents and p = q^α / Σ q^α, they are proportional to p·(1 − q), whatever the lists of weights say."),
    float("weighted_sampler_alpha").number(1.0).between(0.0, 100.0).doc("The exponent α of `weight_by_num_documents`."),
    list("train_label_data_paths").doc("Labels for each of `train_data_paths`, data sets of the same shape: what is learned at each token, which is predicted from those before it; -100 (any negative number) marks one that is not learned."),
    list("valid_label_data_paths").doc("The same for `valid_data_paths`."),
    list("test_label_data_paths").idle(NO_TEST).doc("The same for `test_data_paths`."),
    word("data_impl", "infer", &["infer", "mmap"], &["cached"]).doc("Format of data sets. Both words mean .bin and .idx files that are mapped into memory; `cached` is the older format."),
    word("pack_impl", "packed", &["packed", "pack_until_overflow", "unpacked"], &[])
        .doc("How documents fill sequences: joined and cut, whole ones until one does not fit, or one each. Padding is not learned. [Data sets](howto/data.md) has the orders, and what of GPT-NeoX's is mended."),
    flag("allow_chopped", true).doc("Whether a document that is longer than a sequence is cut, or left out; only where `pack_impl` is not `packed`."),
    word("dataset_impl", "gpt2", &["gpt2"], &["pairwise", "online"]).not_yet("a sample is a sequence of one data set", "use `dataset_impl: gpt2`")
        .doc("What a sample is: a sequence, a pair of them, or what a server gives."),
    flag("eod_mask_loss", false).doc("The prediction after an end-of-document token is not learned; the tokenizer must have one."),
    flag("use_shared_fs", true).idle("no index is written beside the data").doc("Whether all nodes see the same files."),
    flag("mmap_warmup", false).idle("the system reads mapped files as they are needed").doc("Read data sets once when a run starts."),
    int("num_workers").number(2.0).idle("samples are read from mapped files, without processes").doc("Processes that load data."),
    float("short_seq_prob").number(0.1).idle("samples always have `seq_length` tokens, in GPT-NeoX too").doc("Probability of a shorter sequence."),
    dict("curriculum_learning").not_yet(ORDER, "").doc("Begin with short sequences."),
    int("curriculum_seqlen").number(0.0).not_yet(ORDER, "").doc("Length of sequences at the current step; GPT-NeoX sets it itself."),
    dict("data_efficiency").not_yet(ORDER, "").doc("DeepSpeed's sampling and dropping of tokens."),
    word("tokenizer_type", "GPT2BPETokenizer", &["GPT2BPETokenizer", "HFTokenizer", "HFGPT2Tokenizer", "SPMTokenizer", "CharLevelTokenizer", "TiktokenTokenizer"], &[])
        .doc("Kind of tokenizer that made the data. Training needs only its number of ids; commands that read or make text know GPT-2's two files, Hugging Face's tokenizer.json, and bytes."),
    text("vocab_file").doc("The tokenizer's file, vocab.json of GPT-2 or tokenizer.json: beside the file that names it, else from the current folder."),
    text("merge_file").doc("merges.txt of GPT-2's tokenizer, found as `vocab_file` is."),
];
