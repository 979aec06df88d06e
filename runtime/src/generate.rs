//! Sampling: by the plan's `decode` program, which keeps keys and values, while a text fits into the model's context, and
//! by its `logits` program where it does not, or where the plan has no other.

use neoxc_plan::{Plan, Port};

use crate::RuntimeError;
use crate::ranks::Ranks;
use crate::train::init::philox;
use crate::train::settings;

/// How to sample.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// 0 takes the likeliest id.
    pub temperature: f32,
    /// Only the k likeliest (0: all).
    pub top_k: usize,
    /// Only the likeliest that together have this probability (0: all).
    pub top_p: f32,
    /// Ids to sample at most.
    pub max_tokens: usize,
    /// Seed.
    pub seed: u64,
}

/// Continues `prompt`; ids from `ids` on are never sampled, `end` stops. `each` sees every new id.
pub fn generate(
    plan: &Plan,
    ranks: &mut Ranks<'_>,
    prompt: &[u32],
    how: Sampling,
    ids: usize,
    end: Option<u32>,
    mut each: impl FnMut(u32),
) -> Result<Vec<u32>, RuntimeError> {
    let settings = settings(plan)?;
    let seq = settings.seq_length;
    let mut all: Vec<u32> = prompt.to_vec();
    if all.is_empty() {
        return Err(RuntimeError::Settings("the prompt is empty".into()));
    }
    let vocab = ranks.port("logits", "logits")?.0.elements() as usize;
    if let Some(bad) = all.iter().find(|t| **t as usize >= vocab) {
        return Err(RuntimeError::Settings(format!(
            "id {bad} of the prompt is outside the vocabulary"
        )));
    }
    let mut new = vec![];
    let mut bytes = vec![0; vocab * 4];
    let mut decoder = Decoder::of(plan);
    for n in 0..how.max_tokens {
        match &mut decoder {
            Some(d) if all.len() <= seq => d.logits(ranks, &all, &mut bytes)?,
            _ => whole(ranks, &all[all.len().saturating_sub(seq)..], seq, &mut bytes)?,
        }
        let logits = &bytes[..ids.min(vocab) * 4];
        let id = if how.temperature <= 0.0 {
            likeliest(logits)
        } else {
            let r = philox([how.seed as u32, (how.seed >> 32) as u32], [n as u32, 0, 0, 1]);
            pick(&numbers(logits), how, (f64::from(r[0]) + 0.5) / 4_294_967_296.0)
        };
        if end == Some(id) {
            break;
        }
        all.push(id);
        new.push(id);
        each(id);
    }
    Ok(new)
}

/// The logits behind `window`, from all of its tokens.
fn whole(
    ranks: &mut Ranks<'_>,
    window: &[u32],
    seq: usize,
    logits: &mut [u8],
) -> Result<(), RuntimeError> {
    let mut row = vec![0i32; seq];
    row.iter_mut().zip(window).for_each(|(r, t)| *r = *t as i32);
    let text: Vec<u8> = row.iter().flat_map(|t| t.to_le_bytes()).collect();
    ranks.put("logits", "tokens", &text)?;
    ranks.put("logits", "last", &(window.len() as i32 - 1).to_le_bytes())?;
    ranks.run("logits")?;
    ranks.get("logits", "logits", logits)
}

/// The f32 numbers in `bytes`.
fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect()
}

/// Keeps the keys and values of the tokens of a text, so that each is computed once.
pub(crate) struct Decoder {
    /// Tokens whose keys and values are kept.
    kept: usize,
    /// What the program puts out of a token's keys and values, and where they are kept.
    caches: Vec<(String, String)>,
}

impl Decoder {
    /// For a new text.
    pub(crate) fn of(plan: &Plan) -> Option<Decoder> {
        let program = plan.program_of("decode", 0)?;
        let kept =
            |new: &Port| Some((new.name.clone(), new.name.strip_prefix("new_")?.to_string()));
        Some(Decoder { kept: 0, caches: program.outputs.iter().filter_map(kept).collect() })
    }

    /// Forgets the text.
    pub(crate) fn restart(&mut self) {
        self.kept = 0;
    }

    /// The logits behind `text`, the start of which was given before.
    pub(crate) fn logits(
        &mut self,
        ranks: &mut Ranks<'_>,
        text: &[u32],
        logits: &mut [u8],
    ) -> Result<(), RuntimeError> {
        for token in &text[self.kept..] {
            ranks.put("decode", "tokens", &(*token as i32).to_le_bytes())?;
            ranks.put("decode", "count", &(self.kept as i32).to_le_bytes())?;
            ranks.run("decode")?;
            for (new, all) in &self.caches {
                ranks.keep("decode", new, all, self.kept)?;
            }
            self.kept += 1;
        }
        ranks.get("decode", "logits", logits)
    }
}

/// The id with the largest of the logits in `bytes`; of equal ones the first.
pub(crate) fn likeliest(bytes: &[u8]) -> u32 {
    let logits = bytes.as_chunks::<4>().0;
    let number = |c: &[u8; 4]| f32::from_le_bytes(*c);
    // The maximum first, many numbers at a time: none waits for another.
    let (lines, rest) = logits.as_chunks::<16>();
    let mut most = [f32::NEG_INFINITY; 16];
    for line in lines {
        for (most, c) in most.iter_mut().zip(line) {
            *most = if number(c) > *most { number(c) } else { *most };
        }
    }
    let all = most.into_iter().chain(rest.iter().map(number));
    let most = all.fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|c| number(c) == most).unwrap_or(0) as u32
}

/// Draws an id; `u` is uniform in (0, 1).
fn pick(logits: &[f32], how: Sampling, u: f64) -> u32 {
    let likelier = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if (1..order.len()).contains(&how.top_k) {
        // Only these need an order.
        order.select_nth_unstable_by(how.top_k - 1, likelier);
        order.truncate(how.top_k);
    }
    order.sort_unstable_by(likelier);
    let top = f64::from(logits[order[0]]);
    let weight = |i: &usize| ((f64::from(logits[*i]) - top) / f64::from(how.temperature)).exp();
    let mut weights: Vec<f64> = order.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    if how.top_p > 0.0 && how.top_p < 1.0 {
        let mut sum = 0.0;
        let keep = weights.iter().position(|w| {
            sum += w / total;
            sum >= f64::from(how.top_p)
        });
        weights.truncate(keep.map_or(weights.len(), |k| k + 1));
    }
    let total: f64 = weights.iter().sum();
    let mut left = u * total;
    for (i, w) in order.iter().zip(&weights) {
        left -= w;
        if left <= 0.0 {
            return *i as u32;
        }
    }
    order[weights.len() - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling { temperature, top_k, top_p, max_tokens: 1, seed: 0 }
    }

    #[test]
    fn the_likeliest_is_the_first_of_the_largest() {
        let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let mut logits: Vec<f32> = (0..67).map(|i| ((i * 29) % 31) as f32 - 40.0).collect();
        // 29 i = 30 modulo 31 for i = 16, 47.
        assert_eq!(likeliest(&bytes(&logits)), 16);
        logits[66] = 7.0;
        assert_eq!(likeliest(&bytes(&logits)), 66);
        assert_eq!(likeliest(&bytes(&[f32::NAN, f32::NEG_INFINITY, -1.0, -1.0])), 2);
    }

    #[test]
    fn sampling_respects_its_limits() {
        let logits = [0.0, 3.0, 1.0, 2.0];
        for i in 0..100 {
            let u = (f64::from(i) + 0.5) / 100.0;
            assert!([1, 3].contains(&pick(&logits, how(1.0, 2, 0.0), u)));
            assert_eq!(pick(&logits, how(1.0, 0, 0.5), u), 1);
        }
        let hits = (0..1000)
            .filter(|i| pick(&logits, how(1.0, 0, 0.0), (f64::from(*i) + 0.5) / 1000.0) == 1)
            .count();
        // softmax(0, 3, 1, 2)[1] = 0.6439
        assert!((640..=648).contains(&hits), "{hits}");
    }
}
