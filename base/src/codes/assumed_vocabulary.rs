//! NX0113: vocabulary assumed.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0113.
pub static KIND: Kind = Kind {
    code: "NX0113",
    title: "vocabulary assumed",
    explanation: "\
The embedding has as many rows as the tokenizer has ids, padded. Here the tokenizer's file cannot be read
or is not named, but the kind of tokenizer, or the name of its file, has a published size: GPT-2's has
50257 ids, GPT-NeoX-20B's 50277. That size is taken.

If the tokenizer is another one, name its file with `vocab_file`, or give the embedding's rows with
`padded_vocab_size`. Where a file that can be read has another number of ids than the published one, the
file counts, and the same warning says so.",
    example: Example::Config { wrong: "padded_vocab_size: null", right: "padded_vocab_size: 50304" },
    exit: 0,
};

/// The vocabulary is taken to be that of `whose` with `ids` ids, as `why` says; `places` are those of its keys.
pub fn assumed_vocabulary(
    whose: &str,
    ids: usize,
    rows: usize,
    why: &str,
    places: &[(Span, String)],
) -> Diagnostic {
    let message = format!("the vocabulary is taken to be that of {whose}, {ids} ids: {why}");
    let d = Diagnostic::warning(&KIND, message);
    let d = places.iter().fold(d, |d, (span, text)| d.label(span, text.as_str()));
    d.hint(format!(
        "`--set padded_vocab_size={rows}` says the same; another tokenizer needs its own `vocab_file`"
    ))
}

/// The file has `counted` ids, and the vocabulary of `whose` has `ids`.
pub fn another_vocabulary(
    whose: &str,
    ids: usize,
    counted: usize,
    places: &[(Span, String)],
) -> Diagnostic {
    let message = format!(
        "the tokenizer's file has {counted} ids, and the vocabulary of {whose} has {ids}: the file counts"
    );
    let d = Diagnostic::warning(&KIND, message);
    let d = places.iter().fold(d, |d, (span, text)| d.label(span, text.as_str()));
    d.hint("set `tokenizer_type` to the kind of tokenizer that made the file")
}
