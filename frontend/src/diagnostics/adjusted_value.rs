//! NX0111: value adjusted.

use neoxc_ir::diag::Kind;

/// NX0111.
pub static KIND: Kind = Kind {
    code: "NX0111",
    title: "value adjusted",
    explanation: "The value asks for something that cannot be had exactly, and the nearest choice that gives the same\nresults is taken. For example, layers are recomputed in groups of equal size: when\n`checkpoint_num_layers` does not divide `num_layers`, the next smaller divisor is used. Losses and\nweights are the same; memory and time differ a little. Likewise tensor ranks that do not divide the\nvocabulary evenly have all of it each.",
};
