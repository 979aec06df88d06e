//! NX0114: place given in two files.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0114.
pub static KIND: Kind = Kind {
    code: "NX0114",
    title: "place given in two files",
    explanation: "\
Keys that say where something lies on a machine (data, the tokenizer's files, checkpoints, logs) may be
given by several files: the last file counts, and this warning names its keys. So a model's file that names
the places of those who wrote it can be used with a file of one's own. GPT-NeoX refuses this, as it refuses
every key in two files; all other keys are refused here too.

To have the other value, put the files in another order, or use `--set KEY=VALUE`.",
    example: Example::Session(
        "\
$ neoxc check -d configs 20B.yml local_setup.yml
warning[NX0114]: configs/local_setup.yml says where these lie, not configs/20B.yml: data_path, save, load",
    ),
    exit: 0,
};

/// `again` says where `keys` lie instead of `first`; the places are those of the first key.
pub fn overridden_place(keys: &[&str], first: &Span, again: &Span) -> Diagnostic {
    let (first_file, file) = (&first.file, &again.file);
    let message = format!("{file} says where these lie, not {first_file}: {}", keys.join(", "));
    Diagnostic::warning(&KIND, message)
        .label(again, "counts")
        .label(first, "does not")
        .hint("the last file counts; `--set KEY=VALUE` wins over all")
}
