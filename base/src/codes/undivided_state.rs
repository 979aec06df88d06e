//! NX0212: ZeRO leaves optimizer state or weights whole.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0212.
pub static KIND: Kind = Kind {
    code: "NX0212",
    title: "ZeRO leaves optimizer state or weights whole",
    explanation: "\
ZeRO divides the optimizer's state of a parameter over the data ranks along one of the parameter's dims,
from stage 2 on the gradient too, and from stage 3 on the weights. The number of data ranks must divide
the size of a dim; a parameter without such a dim is whole on every rank. The plan computes the same, and
each rank takes more memory than its share. Weights are divided as their state is: those that have none
(frozen ones, and all of SGD without momentum) stay whole.

A number of data ranks that divides `hidden_size` or the rows of the vocabulary divides most of a model.",
    example: Example::Session(
        "\
$ neoxc check 14M.yml quickstart.yml --set world_size=5 --set zero_optimization.stage=1
warning[NX0212]: ZeRO leaves 100 % of the optimizer's state whole on each of 5 data ranks
  = hint: their number divides no dim of 16 parameters, among them gpt_neox.embed_in.weight; …",
    ),
    exit: 0,
};

/// Of `what`, `percent` are whole on each of `ranks` data ranks: those of `count` parameters, among them `name`. `place` is
/// where ZeRO is asked for.
pub fn undivided_state(
    percent: f64,
    what: &str,
    ranks: usize,
    (count, name): (usize, &str),
    place: Option<&Span>,
) -> Diagnostic {
    let message = format!(
        "ZeRO leaves {percent:.0} % of {what} whole on each of {ranks} data ranks"
    );
    let d = Diagnostic::warning(&KIND, message);
    place.into_iter().fold(d, |d, span| d.label(span, "asked for here")).hint(format!(
        "their number divides no dim of {count} parameters, among them {name}; one that divides `hidden_size` divides \
         most of a model"
    ))
}
