//! The lint `learned-padding`.

use neoxc_config::Packing;

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "learned-padding",
    text: "\
Where `pack_impl` is `pack_until_overflow` or `unpacked`, a sequence ends with padding. Without labels GPT-NeoX trains on
it, as if it were the token 0 (and `unpacked` ends in an error there). neoxc learns no padding, so losses are others than
GPT-NeoX's.",
    wrong: "train_data_paths: [a]\npack_impl: pack_until_overflow",
    right: "train_data_paths: [a]\ntrain_label_data_paths: [a_label]\npack_impl: pack_until_overflow",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let labelled = c.run.train_data.iter().all(|s| s.labels.is_some());
    let named = c.run.data_path.is_some() || !c.run.train_data.is_empty();
    let pads = c.run.packing != Packing::Packed && named;
    (pads && !(labelled && c.run.data_path.is_none())).then(|| Finding {
        message: "padding is not learned; GPT-NeoX trains on it where there are no labels".into(),
        keys: &["pack_impl"],
        hint: "`--set pack_impl=packed` has no padding".into(),
    })
}
