//! The lint `weights-by-documents`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "weights-by-documents",
    text: "\
`weight_by_num_documents` multiplies the share p of each data set, of q of all documents, by 1 - q: the larger a data set,
the less of its share it keeps. Two data sets get 50 % each with `weighted_sampler_alpha: 1`, whatever their sizes.
neoxc computes the same weights as GPT-NeoX.",
    wrong: "train_data_paths: [a, b]\nweight_by_num_documents: true",
    right: "train_data_paths: [a, b]\ntrain_data_weights: [0.9, 0.1]",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let n = c.run.train_data.len();
    let exponent = c.run.document_exponent.filter(|_| n > 1)?;
    let halves = n == 2 && exponent == 1.0;
    Some(Finding {
        message: match halves {
            true => "both data sets weigh the same, whatever their numbers of documents".into(),
            false => "a data set with the share q of the documents weighs 1 - q times its share".into(),
        },
        keys: &["weight_by_num_documents", "weighted_sampler_alpha"],
        hint: "`train_data_weights` has the weights as they are meant".into(),
    })
}
