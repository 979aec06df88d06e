//! Data sets: paths, weights and labels of each part of the data, and how documents fill sequences.

use neoxc_base::codes::{impossible_value, without_effect, wrong_type};
use neoxc_config::{Packing, Source};

use crate::reader::{Reader, number};
use crate::yaml::{Node, Value};

/// What the keys of training data say.
pub(crate) struct Data {
    pub(crate) train: Vec<Source>,
    pub(crate) valid: Vec<Source>,
    pub(crate) document_exponent: Option<f64>,
    pub(crate) packing: Packing,
    pub(crate) allow_chopped: bool,
}

impl<'a> Reader<'a> {
    /// Reads the keys of training data, but for `data_path` and its split.
    pub(crate) fn data(&mut self) -> Data {
        let [train, valid] = ["train", "valid"].map(|part| self.sources(part));
        if !train.is_empty() {
            let why = "`train_data_paths` names the training data; GPT-NeoX refuses both";
            self.idle("data_path", why);
        }
        let by_documents = self.bool("weight_by_num_documents");
        for (key, why) in [
            ("train_data_weights", "`weight_by_num_documents` says the weights"),
            ("valid_data_weights", "`weight_by_num_documents` says the weights"),
        ] {
            if by_documents {
                self.idle(key, why);
            }
        }
        if !by_documents {
            self.idle("weighted_sampler_alpha", "only `weight_by_num_documents` reads it");
        }
        let packing = Packing::parse(&self.word("pack_impl")).unwrap_or_default();
        if packing == Packing::Packed {
            let why = "with `pack_impl: packed` nothing reads it in GPT-NeoX either";
            self.idle("allow_chopped", why);
        }
        let exponent = self.float("weighted_sampler_alpha");
        Data {
            train,
            valid,
            document_exponent: by_documents.then_some(exponent),
            packing,
            allow_chopped: self.bool("allow_chopped"),
        }
    }

    /// Warns that `key`, where it is given, has no effect beside the other keys.
    fn idle(&mut self, key: &str, why: &str) {
        let Some((given, _)) = self.find(key) else { return };
        let message = format!("known, but without effect here: {key}");
        self.tell(without_effect::without_effect(&message, &given.span, why));
    }

    /// The data sets of a part, `train` or `valid`.
    fn sources(&mut self, part: &str) -> Vec<Source> {
        let [paths_key, labels_key, weights_key] =
            ["data_paths", "label_data_paths", "data_weights"].map(|key| format!("{part}_{key}"));
        let paths = self.texts(&paths_key);
        let labels = self.texts(&labels_key);
        let weights = self.weights(&weights_key);
        for key in [&labels_key, &weights_key] {
            // Entries that were refused are counted too.
            let (given, n) = (self.entries(key).len(), self.entries(&paths_key).len());
            if given != 0 && given != n {
                let message = match n == 0 {
                    true => format!("`{key}` is beside `{paths_key}`, which is not given"),
                    false => format!("`{key}` has {given} entries, and `{paths_key}` has {n}"),
                };
                let hint = format!("one entry for each path of `{paths_key}`, in its order");
                self.both(message, key, &paths_key, &hint);
                return vec![];
            }
        }
        if !weights.is_empty() && weights.iter().sum::<f64>() <= 0.0 {
            let message = format!("the weights of `{weights_key}` add up to 0");
            self.both(message, &weights_key, &paths_key, "at least one weight above 0");
        }
        let source = |(n, path): (usize, String)| Source {
            path,
            labels: labels.get(n).cloned(),
            weight: weights.get(n).copied().unwrap_or(1.0),
        };
        paths.into_iter().enumerate().map(source).collect()
    }

    /// The entries of a list key; an error where one is no text.
    fn texts(&mut self, name: &str) -> Vec<String> {
        let mut out = vec![];
        for node in self.entries(name) {
            match &node.value {
                Value::Str(text) => out.push(text.clone()),
                other => {
                    let (found, want) = (other.describe(), "a list of paths");
                    let found = format!("a list with {found}");
                    let hint = "paths are text: put them in quotes";
                    self.tell(wrong_type::wrong_type(name, &found, want, &node.span, hint));
                }
            }
        }
        out
    }

    /// The numbers of a list of weights; an error where one is none, or negative.
    fn weights(&mut self, name: &str) -> Vec<f64> {
        let mut out = vec![];
        for node in self.entries(name) {
            match number(&node.value) {
                Some(x) if (0.0..=1e12).contains(&x) => out.push(x),
                Some(x) => {
                    let (found, want) = (x.to_string(), "weights from 0 to 1e12");
                    self.tell(impossible_value::out_of_range(name, &found, want, &node.span));
                }
                None => {
                    let found = format!("a list with {}", node.value.describe());
                    let hint = "floats need a dot or no exponent: `[0.7, 0.3]`";
                    let want = "a list of numbers";
                    self.tell(wrong_type::wrong_type(name, &found, want, &node.span, hint));
                }
            }
        }
        out
    }

    /// The entries of the list that is given for `name`.
    fn entries(&self, name: &str) -> &'a [Node] {
        match self.find(name).map(|(_, node)| &node.value) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }
}
