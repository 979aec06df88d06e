//! The lint `labels-of-one-set`.

use neoxc_config::Source;

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "labels-of-one-set",
    text: "\
GPT-NeoX looks only whether `train_label_data_paths` is given: without it, labels of validation and test data are not read
and every token counts there; with it, validation or test data without labels end in an error. neoxc reads the labels of
each set that has them. Losses of a set with labels and of one without are means over different kinds of tokens.",
    wrong: "train_data_paths: [a]\nvalid_data_paths: [b]\nvalid_label_data_paths: [b_label]",
    right: "train_data_paths: [a]\nvalid_data_paths: [b]\ntrain_label_data_paths: [a_label]\nvalid_label_data_paths: [b_label]",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let labelled = |all: &[Source]| all.iter().any(|s| s.labels.is_some());
    let (train, valid) = (labelled(&c.run.train_data), labelled(&c.run.valid_data));
    (train != valid && !c.run.valid_data.is_empty()).then(|| Finding {
        message: match train {
            true => "training data have labels, and validation data have none".into(),
            false => "validation data have labels, and training data have none".into(),
        },
        keys: &["train_label_data_paths", "valid_label_data_paths"],
        hint: "labels for both sets, or for neither".into(),
    })
}
