//! The order of samples that hold whole documents: `pack_impl: pack_until_overflow` and `unpacked` of GPT-NeoX's
//! gpt2_dataset.py. One stream of random numbers shuffles the samples first, and then the documents of each pass.
//!
//! Four things differ from GPT-NeoX, where they are defects: documents are those of the set's own range, wherever it
//! begins; leaving documents out goes on past the end of a pass; documents without a token to predict are left out (an
//! empty one, or with `unpacked` one of a single token); and a sample ends with its last document, without a token of
//! the next one.

use neoxc_config::MOST_SAMPLES;

use super::mt19937::RandomState;
use crate::RuntimeError;
use crate::device::limits;

/// Which documents each sample has: 8 bytes per sample, and 4 per document that is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Documents in the order of the samples that hold them.
    pub documents: Vec<u32>,
    /// Index into `documents` where each sample starts, and their number; empty where a sample is a document.
    starts: Vec<u32>,
    /// Sample that is drawn at each position.
    pub shuffle: Vec<u32>,
}

/// What takes the memory, for people.
const ORDER: &str = "the order of samples";

/// What an order is made of.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// Lengths of the documents, the first of which has the number `first`; 0 where one is left out. One is not.
    pub lengths: &'a [u32],
    /// Its number.
    pub first: u32,
    /// Tokens of a sample.
    pub seq: u64,
    /// Samples that are drawn.
    pub samples: u64,
    /// Seed of all shuffles.
    pub seed: u32,
    /// Processes on this host that each make it.
    pub copies: u64,
}

impl Of<'_> {
    /// The samples, shuffled; `documents` of them and starts have room too.
    fn shuffled(&self, random: &mut RandomState) -> Result<Vec<u32>, RuntimeError> {
        if self.samples > MOST_SAMPLES {
            let n = self.samples;
            let message = format!("the run draws {n} samples, and {MOST_SAMPLES} can be numbered");
            return Err(RuntimeError::Settings(message));
        }
        self.check(8 * self.samples + 8 * self.lengths.len() as u64)?;
        let mut shuffle = limits::reserve(ORDER, self.samples as usize)?;
        shuffle.extend(0..self.samples as u32);
        random.shuffle(&mut shuffle);
        Ok(shuffle)
    }

    fn check(&self, bytes: u64) -> Result<(), RuntimeError> {
        limits::check(ORDER, bytes.saturating_mul(self.copies))
    }
}

/// One document a sample, in their order, again and again.
///
/// # Errors
/// There are more samples than can be numbered, or than memory has room for.
pub fn unpacked(of: &Of<'_>) -> Result<Whole, RuntimeError> {
    let shuffle = of.shuffled(&mut RandomState::new(of.seed))?;
    let kept = of.lengths.iter().zip(of.first..).filter(|(n, _)| **n > 0);
    Ok(Whole { documents: kept.map(|(_, d)| d).collect(), starts: vec![], shuffle })
}

/// Documents in a random order, as many whole ones in a sample as fit its seq + 1 tokens.
///
/// The first pass is a permutation of all documents, and each further one a permutation of the one before. The last sample
/// has one document.
///
/// # Errors
/// There are more samples or documents than can be numbered, or than memory has room for.
pub fn until_overflow(of: &Of<'_>) -> Result<Whole, RuntimeError> {
    let mut random = RandomState::new(of.seed);
    let shuffle = of.shuffled(&mut random)?;
    let mut pass: Vec<u32> = limits::reserve(ORDER, of.lengths.len())?;
    pass.extend(0..of.lengths.len() as u32);
    let mut starts: Vec<u32> = limits::reserve(ORDER, shuffle.len() + 1)?;
    let mut documents: Vec<u32> = vec![];
    let mut filled = 0;
    'passes: loop {
        // Documents may be much shorter than samples: how many are drawn is only known here.
        of.check(4 * pass.len() as u64)?;
        documents.try_reserve(pass.len()).map_err(|_| RuntimeError::Memory {
            what: ORDER,
            needs: 4 * pass.len() as u64,
            available: 0,
            limit: "given by the system".into(),
        })?;
        random.shuffle(&mut pass);
        for d in &pass {
            let length = u64::from(of.lengths[*d as usize]);
            if length == 0 {
                continue;
            }
            if starts.is_empty() || filled + length > of.seq + 1 {
                starts.push(documents.len() as u32);
                filled = 0;
            }
            filled += length;
            documents.push(of.first + d);
            if starts.len() == shuffle.len() {
                break 'passes;
            }
        }
        if documents.len() as u64 > MOST_SAMPLES {
            let message = format!("the run draws more than {MOST_SAMPLES} documents of all epochs");
            return Err(RuntimeError::Settings(message));
        }
    }
    starts.push(documents.len() as u32);
    Ok(Whole { documents, starts, shuffle })
}

impl Whole {
    /// The documents of sample `id`, in order.
    pub fn sample(&self, id: u32) -> &[u32] {
        let id = id as usize;
        match self.starts.is_empty() {
            true => std::slice::from_ref(&self.documents[id % self.documents.len()]),
            false => &self.documents[self.starts[id] as usize..self.starts[id + 1] as usize],
        }
    }
}
