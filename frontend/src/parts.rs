//! A configuration is often one part of several: a model without a run, or places without a model. What is missing is
//! then told in one sentence for each part, not key by key.

use neoxc_base::codes::missing_key;

use crate::reader::Reader;

/// A part that a configuration may be without, as a whole.
struct Part {
    /// As a message says it.
    what: &'static str,
    /// Keys of which some are there where the part is.
    keys: &'static [&'static str],
    /// A file that has it.
    hint: &'static str,
}

const PARTS: [Part; 2] = [
    Part {
        what: "the model (`num_layers`, `hidden_size`, `num_attention_heads`, `seq_length`)",
        keys: &["num_layers", "hidden_size", "num_attention_heads", "seq_length"],
        hint: "name the model's file too, as in `neoxc check -d configs pythia/14M.yml local/quickstart.yml`",
    },
    Part {
        what: "the run (`optimizer`, `train_iters`, `train_micro_batch_size_per_gpu`)",
        keys: &[
            "optimizer",
            "lr",
            "train_iters",
            "train_micro_batch_size_per_gpu",
            "batch_size",
            "train_batch_size",
        ],
        hint: "name the run's file too, as in `neoxc check -d configs pythia/14M.yml local/quickstart.yml`",
    },
];

impl Reader<'_> {
    /// Tells which parts are missing as a whole; their keys count as told of.
    pub(crate) fn parts(&mut self) {
        for part in &PARTS {
            if part.keys.iter().all(|k| !self.is_there(k)) {
                self.tell(missing_key::missing_key(part.what, part.hint));
                self.absent.extend(part.keys);
            }
        }
    }

    /// Whether `key` belongs to a part whose absence was told.
    pub(crate) fn is_absent(&self, key: &str) -> bool {
        self.absent.contains(&key)
    }
}
