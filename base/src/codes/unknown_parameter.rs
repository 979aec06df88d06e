//! NX0210: a pattern fits no parameter.

use crate::diag::{Diagnostic, Example, Kind, Span};
use crate::nearest::nearest;

/// NX0210.
pub static KIND: Kind = Kind {
    code: "NX0210",
    title: "a pattern fits no parameter",
    explanation: "\
A group of `param_groups` says which parameters it has by a pattern for their logical names, in which `*`
stands for any characters, and `freeze` has a list of such patterns. The model has no parameter whose name
fits this one, so it would change nothing.

The names are those of checkpoints, with `{layer}` for the number of the layer. `neoxc dump --plan PLAN
--phase model` prints them, as `neox.param`.",
    example: Example::Session(
        "\
$ neoxc check model.yml --set 'param_groups=[{params: \"*.attn.*\", lr_scale: 0.5}]'
error[NX0210]: no parameter's name fits `*.attn.*`
  = hint: one of them is `gpt_neox.embed_in.weight`; `*` stands for any characters",
    ),
    exit: 3,
};

/// None of the parameters called `names` fits `pattern`.
pub fn unknown_parameter(pattern: &str, names: &[String], place: Option<&Span>) -> Diagnostic {
    let d = Diagnostic::error(&KIND, format!("no parameter's name fits `{pattern}`"));
    let d = place.iter().fold(d, |d, span| d.label(span, "a pattern without parameters"));
    // What is left of the pattern without its stars may be a misspelt name.
    let near = nearest(&pattern.replace('*', ""), names.iter().map(String::as_str));
    let one = near.or(names.first().map(String::as_str)).unwrap_or_default();
    d.hint(format!("one of them is `{one}`; `*` stands for any characters"))
}
