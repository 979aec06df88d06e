//! What a layer is made of: norms, key-value heads, activation and width of the MLP.

use neoxc_base::codes::conflict;

use crate::config::{Activation, Norm, NormPlace, QkNorm, Start};
use crate::reader::Reader;

/// The width of an MLP as GPT-NeoX makes it: of its first projection, or of each half of it where there is a gate,
/// and of what the second takes. They differ where the rounding of the two does: then GPT-NeoX's model cannot run.
fn widths(size: usize, multiple: usize, gated: bool) -> (usize, usize) {
    let up = |n: usize, to: usize| n.div_ceil(to) * to;
    match gated {
        true => {
            let both = size * 2 / 3;
            (up(both, 2 * multiple) / 2, up(both / 2, multiple))
        }
        // Any width will do: the first projection needs no even one here.
        false if multiple == 1 => (size, size),
        false => (up(size, 2 * multiple), up(size, multiple)),
    }
}

/// The start value by the name of a method; `std` is `init_method_std`.
pub(crate) fn start_of(method: &str, std: f64, layers: usize, hidden: usize) -> Start {
    let (layers, hidden) = (layers as f64, hidden as f64);
    Start::Normal(match method {
        "xavier_normal" => return Start::XavierNormal,
        "xavier_uniform" => return Start::XavierUniform,
        "small_init" => (2.0 / (5.0 * hidden)).sqrt(),
        "single_residual_scaled_normal" => std / layers.sqrt(),
        "wang_init" => 2.0 / layers / hidden.sqrt(),
        "scaled_normal" => std / (2.0 * layers).sqrt(),
        _ => std,
    })
}

impl Reader<'_> {
    /// The kind of norms, and their epsilon.
    pub(crate) fn norms(&mut self) -> (Norm, f64) {
        match self.word("norm").as_str() {
            // Transformer Engine's are the same norms.
            "rmsnorm" | "te_rmsnorm" => (Norm::RmsNorm, self.float("rms_norm_epsilon")),
            "scalenorm" => (Norm::ScaleNorm, self.float("scalenorm_epsilon")),
            "non_parametric_layernorm" => (Norm::NonParametric, self.float("layernorm_epsilon")),
            _ => (Norm::LayerNorm, self.float("layernorm_epsilon")),
        }
    }

    /// Whether norms multiply by 1 plus their weights, which they must have.
    pub(crate) fn zero_centred(&mut self, norm: Norm) -> bool {
        let centred = self.bool("zero_centred_norms");
        if centred && !matches!(norm, Norm::LayerNorm | Norm::RmsNorm) {
            let message = format!("a norm `{norm}` has no weights to which 1 could be added");
            self.both(message, "zero_centred_norms", "norm", "`--set norm=rmsnorm`, or remove it");
        }
        centred
    }

    /// Where layers have norms; a norm that both branches share is one before them.
    pub(crate) fn norm_place(&mut self) -> NormPlace {
        let place = NormPlace::parse(&self.word("norm_place")).unwrap_or_default();
        if !place.before() && self.bool("gpt_j_tied") {
            let message = "there is no norm before the branches that they could share".to_string();
            self.both(message, "norm_place", "gpt_j_tied", "`--set norm_place=before`");
        }
        place
    }

    /// The norms of queries and keys.
    pub(crate) fn qk_norm(&mut self, norm: Norm) -> QkNorm {
        let kind = QkNorm::parse(&self.word("qk_norm")).unwrap_or_default();
        if kind != QkNorm::None && norm != Norm::RmsNorm {
            let message = "norms of queries and keys are RMS norms, and the others are not";
            self.both(message.into(), "qk_norm", "norm", "`--set norm=rmsnorm`");
        }
        kind
    }

    /// The dims of a head.
    pub(crate) fn head_dim(&mut self, hidden: usize, heads: usize) -> Option<usize> {
        if let Some(dims) = self.int("head_dim") {
            return Some(dims);
        }
        if !hidden.is_multiple_of(heads) {
            let message = format!("{heads} heads do not divide a hidden size of {hidden}");
            self.both(message, "hidden_size", "num_attention_heads", "choose a multiple");
            return None;
        }
        Some(hidden / heads)
    }

    /// Key-value heads, if they are not as many as heads.
    pub(crate) fn key_heads(&mut self, heads: usize) -> Option<usize> {
        let kv = self.int("num_kv_heads")?;
        if !heads.is_multiple_of(kv) {
            let message = format!("{kv} key-value heads do not divide {heads} heads");
            self.both(message, "num_kv_heads", "num_attention_heads", "choose a divisor");
            return None;
        }
        (kv != heads).then_some(kv)
    }

    /// The activation, and the width of the MLP or of each expert.
    pub(crate) fn mlp(&mut self, hidden: usize, experts: bool) -> (Activation, usize) {
        let name = self.word("activation");
        // `swish` is another name of `silu`.
        let known = Activation::parse(if name == "swish" { "silu" } else { &name });
        let activation = known.unwrap_or_default();
        let given = self.int("intermediate_size");
        let factor = self.given("expansion_factor").unwrap_or(4.0);
        if given.is_some() && self.find("expansion_factor").is_some() {
            let message = "the width of the MLP is given twice".to_string();
            self.both(message, "intermediate_size", "expansion_factor", "keep one");
        }
        let size = given.unwrap_or((hidden as f64 * factor) as usize);
        let multiple = self.whole("mlp_multiple_of");
        // Upstream rounds the width of no expert; it has none with a gate.
        if experts && !activation.gated() {
            return (activation, size);
        }
        let (first, second) = widths(size, multiple, activation.gated());
        if first != second || first == 0 {
            let message = format!(
                "an MLP whose first projection is {first} wide and whose second takes {second}: GPT-NeoX cannot run it"
            );
            let hint = match activation.gated() {
                // A third of it is the width.
                true => format!(
                    "`intermediate_size` = 3 × the width: `--set intermediate_size={}`",
                    3 * size
                ),
                false => "a multiple of 2 × `mlp_multiple_of`".into(),
            };
            let keys = ["intermediate_size", "mlp_multiple_of", "activation"];
            let given = keys.iter().filter_map(|k| Some((*k, self.find(k)?.1.span.clone())));
            let places: Vec<_> = given.map(|(k, span)| (span, format!("`{k}`"))).collect();
            let d = conflict::conflict(&message, &places, &hint);
            let place = self.find("intermediate_size").filter(|_| activation.gated());
            self.tell(match place {
                Some((_, node)) => d.edit(&node.span, (3 * size).to_string()),
                None => d,
            });
        }
        (activation, first)
    }
}

#[cfg(test)]
mod tests {
    use super::widths;

    /// Widths of published models, from the sizes in GPT-NeoX's own files.
    #[test]
    fn gated_widths_are_a_third_rounded_up() {
        for (size, multiple, want) in [
            (32768, 256, 11008),
            (40960, 256, 13824),
            (53248, 256, 17920),
            (65536, 256, 22016),
            (41472, 256, 13824),
            (86016, 256, 28672),
            (16384, 256, 5632),
            (3 * 14336, 1, 14336),
            (3 * 27, 1, 27),
        ] {
            assert_eq!(widths(size, multiple, true), (want, want), "{size} {multiple}");
        }
        assert_eq!(widths(14336, 1, true), (4779, 4778));
        assert_eq!(widths(12, 4, false), (16, 12));
        assert_eq!(widths(16, 4, false), (16, 16));
        assert_eq!(widths(7, 1, false), (7, 7));
    }
}
