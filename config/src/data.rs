//! The data of a run: sources, their weights, and how documents fill sequences.

use serde::{Deserialize, Deserializer, Serialize};

/// One data set that a run draws samples from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Its tokens: the path without `.bin`.
    pub path: String,
    /// Labels of the same shape, if it has any; a negative one marks a token that is not learned.
    #[serde(default)]
    pub labels: Option<String>,
    /// Its share of the samples, in the unit of the other sources' weights.
    pub weight: f64,
}

impl Source {
    /// The only source of a set: tokens without labels.
    pub fn only(path: &str) -> Source {
        Source { path: path.into(), labels: None, weight: 1.0 }
    }
}

/// How documents fill sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Packing {
    /// They are joined, and cut every `seq_length` tokens.
    #[default]
    Packed,
    /// Documents are put whole into a sequence until the next one does not fit; the rest is padding.
    UntilOverflow,
    /// A document a sequence; the rest is padding.
    Unpacked,
}

crate::words!(
    Packing: Packed = "packed",
    UntilOverflow = "pack_until_overflow",
    Unpacked = "unpacked",
);

/// Sources as they are written today, or as the one path or null of files from before there were several.
pub(crate) fn sources<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Source>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        None(()),
        One(String),
        Many(Vec<Source>),
    }
    Ok(match Written::deserialize(from)? {
        Written::None(()) => vec![],
        Written::One(path) => vec![Source::only(&path)],
        Written::Many(all) => all,
    })
}
