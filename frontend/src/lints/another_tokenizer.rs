//! The lint `another-tokenizer`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "another-tokenizer",
    text: "\
The name of `vocab_file` is that of another kind of tokenizer than `tokenizer_type` says: GPT-NeoX cannot read it,
or reads ids that the data do not have. The size of the vocabulary is taken from the file, or from what is
published of a file of this name.",
    wrong: "tokenizer_type: HFTokenizer\nvocab_file: data/gpt2-vocab.json",
    right: "tokenizer_type: GPT2BPETokenizer\nvocab_file: data/gpt2-vocab.json",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let file = c.run.vocab_file.as_deref()?;
    let given = c.run.tokenizer_type.as_str();
    let ends = |end: &str| file.ends_with(end);
    let kind = match given {
        "HFTokenizer" if ends("vocab.json") => "GPT2BPETokenizer",
        "GPT2BPETokenizer" | "SPMTokenizer" if ends("tokenizer.json") => "HFTokenizer",
        "GPT2BPETokenizer" | "HFTokenizer" if ends(".model") => "SPMTokenizer",
        _ => return None,
    };
    Some(Finding {
        message: format!("`{file}` looks like the file of a {kind}, not of a {given}"),
        keys: &["vocab_file", "tokenizer_type"],
        hint: format!("`--set tokenizer_type={kind}`, or name the tokenizer's own file"),
    })
}
