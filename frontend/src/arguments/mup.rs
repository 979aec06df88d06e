//! Arguments of the maximal-update parametrisation (μP).

use neoxc_base::codes::maximal_update;

use super::{Argument, flag, float, int, text};

const NO_MUP: &str = "start values and rates do not depend on the width";
const STANDARD: &str = "use the standard parametrisation: leave it out";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    flag("use_mup", false).waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("Scale start values and learning rates with the width, so that settings found on a small model hold for a large one."),
    flag("coord_check", false).waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("Print how activations grow with the width, to check μP."),
    flag("save_base_shapes", false).waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("Write the shapes of the base model, and end."),
    text("base_shapes_file").waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("The file of the base model's shapes."),
    float("mup_init_scale").number(1.0).waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("Factor of start values under μP."),
    float("mup_attn_temp").number(1.0).unread().doc("Factor of attention scores under μP."),
    float("mup_output_temp").number(1.0).unread().doc("Factor of logits under μP."),
    float("mup_embedding_mult").number(1.0).waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("Factor of embeddings under μP."),
    float("mup_rp_embedding_mult").number(1.0).waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("Factor of positions under μP."),
    int("mup_width_scale").number(2.0).waits(&maximal_update::KIND, NO_MUP, STANDARD).doc("Width of the second model that `save_base_shapes` compares with, over the first's."),
];
