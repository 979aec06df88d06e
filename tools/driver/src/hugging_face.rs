//! What Hugging Face's checkpoints have of a configuration's model: its `config.json`, and where its weights are.

use neoxc_base::codes::conflict;
use neoxc_base::diag::Span;
use neoxc_frontend::Config;
use neoxc_models::Arch;
use neoxc_models::decoder::parameters;
use neoxc_models::families;
pub use neoxc_models::families::hugging_face::{Described, read};
use neoxc_plan::names;
use serde_json::{Map, Value};

use crate::{CompileError, lower_config};

/// A tensor of a checkpoint that has a range of one dim of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The tensor's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The weight's dim of which it has a range.
    pub dim: usize,
    /// First element of the range.
    pub start: usize,
    /// Elements of the range.
    pub size: usize,
}

/// A weight of one layer, or outside of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Logical name.
    pub name: String,
    /// The dims that pieces are ranges of.
    pub dims: Vec<usize>,
    /// Where Hugging Face has it.
    pub pieces: Vec<Piece>,
}

impl Weight {
    /// Elements before and after a dim.
    fn around(&self, dim: usize) -> (usize, usize) {
        (self.dims[..dim].iter().product(), self.dims[dim + 1..].iter().product())
    }

    /// Elements of the whole.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// The elements that a piece has, in its order, out of those of the whole; elements are `width` bytes.
    pub fn split(&self, whole: &[u8], piece: &Piece, width: usize) -> Vec<u8> {
        let (outer, inner) = self.around(piece.dim);
        let (stride, from, len) = (
            self.dims[piece.dim] * inner * width,
            piece.start * inner * width,
            piece.size * inner * width,
        );
        (0..outer).flat_map(|i| whole[i * stride + from..][..len].iter().copied()).collect()
    }

    /// Puts a piece's elements where they are in the whole.
    pub fn join(&self, whole: &mut [u8], piece: &Piece, bytes: &[u8], width: usize) {
        let (outer, inner) = self.around(piece.dim);
        let (stride, to, len) = (
            self.dims[piece.dim] * inner * width,
            piece.start * inner * width,
            piece.size * inner * width,
        );
        for i in 0..outer {
            whole[i * stride + to..][..len].copy_from_slice(&bytes[i * len..][..len]);
        }
    }
}

/// The weights of a configuration's model, layer by layer.
pub fn weights(config: &Config) -> Vec<Weight> {
    let a = lower_config::arch(config);
    let family = families::of(&a);
    let slices = (a.layers / a.period().len().max(1)) as u64;
    let mut out = vec![];
    for (name, position, p) in parameters(&a, family) {
        let layers = if position.is_some() { slices } else { 1 };
        // What stands in front of the name within the layer is the same for pieces.
        let prefix = name.strip_suffix(p.name).unwrap_or_default();
        for layer in 0..layers {
            let piece = |piece: &neoxc_models::param::Piece| Piece {
                name: names::of_slice(&format!("{prefix}{}", piece.name), layer),
                shape: p.shape_of(Some(piece)).into_iter().map(|n| n as u64).collect(),
                dim: piece.dim,
                start: piece.start,
                size: piece.size,
            };
            out.push(Weight {
                name: names::of_slice(&name, layer),
                dims: p.dims.iter().map(|d| d.size).collect(),
                pieces: p.pieces.iter().map(piece).collect(),
            });
        }
    }
    out
}

/// Ends of the names of tensors that hold no parameters of the configuration's model.
pub fn buffers(config: &Config) -> &'static [&'static str] {
    families::of(&lower_config::arch(config)).hugging_face().map_or(&[], |f| f.buffers)
}

/// The tensor that a checkpoint may have beside the embedding though both are one: their names.
pub fn tied_head(config: &Config) -> Option<[String; 2]> {
    let mut a = lower_config::arch(config);
    if !a.tied {
        return None;
    }
    a.tied = false;
    let outer = families::of(&a).outer(&a);
    let named =
        |role: &str| outer.iter().find(|p| p.role == role)?.pieces.first().map(|p| p.name.clone());
    Some([named("head.weight")?, named("embed.weight")?])
}

/// The `config.json` of a configuration's model, without special ids and dtype.
///
/// # Errors
/// What Hugging Face's class does not have of the model.
pub fn config_json(config: &Config) -> Result<Map<String, Value>, String> {
    families::hugging_face::write(&lower_config::arch(config))
}

/// Whether a model is of the family that its configuration names.
///
/// # Errors
/// What the family has not of the model, with the place of its name.
pub(crate) fn is_of_family(config: &Config, a: &Arch) -> Result<(), CompileError> {
    let lacks = families::of(a).lacks(a);
    let Some(name) = a.family.as_ref().filter(|_| !lacks.is_empty()) else { return Ok(()) };
    let place = config.places.get("model_family").map(|(file, line, column)| {
        let (file, length) = (file.as_str().into(), name.chars().count() as u32);
        (Span { file, line: *line, column: *column, length }, "this family".to_string())
    });
    let message = format!(
        "the model is said to be of the family `{name}`, which has no {}",
        lacks.join(", no ")
    );
    let hint = "leave `model_family` out: the model's features decide then";
    let d = conflict::conflict(&message, place.as_slice(), hint);
    Err(CompileError::Family(Box::new(d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a `config.json` says of positions is read, is written, and is read again as the same model.
    #[test]
    fn scaled_positions_come_back() {
        let llama3 = serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let yarn = serde_json::json!({"type": "yarn", "factor": 4, "truncate": false, "mscale": 1.0,
            "mscale_all_dim": 0.707, "original_max_position_embeddings": 32768});
        let linear = serde_json::json!({"type": "linear", "factor": 1.5});
        for (family, scaling) in ["llama", "gpt_neox"]
            .into_iter()
            .flat_map(|f| [&llama3, &yarn, &linear].map(|s| (f, s)))
        {
            let mut json = serde_json::json!({ "model_type": family, "rope_scaling": scaling });
            let model = |json: &Value| {
                let sets = read(json).expect("the keys are known").sets;
                let run = ["train_iters=1", "train_micro_batch_size_per_gpu=1"].map(String::from);
                let optimizer = "optimizer={params: {lr: 0.001}}".to_string();
                let sets = sets.iter().map(|(k, v)| format!("{k}={v}")).chain(run);
                let sets: Vec<String> = sets.chain([optimizer]).collect();
                let loaded = neoxc_frontend::load(&[], None, &sets);
                loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
            };
            let first = model(&json);
            assert!(first.model.rope_scaling.is_some(), "{family}: {scaling}");
            json = Value::Object(config_json(&first).expect("Hugging Face has the model"));
            assert_eq!(model(&json).model, first.model, "{json}");
        }
    }

    /// Every feature that a family has not is refused by name; the model without it is of the family.
    #[test]
    fn families_refuse_by_name_what_they_have_not() {
        let common = "num_layers=2 num_attention_heads=4 hidden_size=32 seq_length=8 max_position_embeddings=16 \
                      padded_vocab_size=43 pos_emb=rotary rotary_pct=1.0 norm=layernorm gpt_j_residual=true gpt_j_tied=true \
                      hidden_dropout=0 attention_dropout=0 train_iters=1 train_micro_batch_size_per_gpu=1 \
                      optimizer.params.lr=0.001 use_bias_in_attn_linear=false use_bias_in_mlp=false";
        let falcon = "model_family=falcon activation=gelu num_kv_heads=1";
        let palm = "model_family=palm activation=swiglu intermediate_size=96 num_kv_heads=1 use_bias_in_norms=false no_weight_tying=false";
        let refusal = |family: &str, change: &str| {
            let mut sets = vec![];
            for set in [common, family, change].iter().flat_map(|keys| keys.split_whitespace()) {
                let key = |set: &str| set.split('=').next().map(str::to_string);
                sets.retain(|old: &String| key(old) != key(set));
                sets.push(set.to_string());
            }
            let loaded = neoxc_frontend::load(&[], None, &sets);
            let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
            is_of_family(&config, &lower_config::arch(&config)).err().map(|e| e.to_string())
        };
        for (family, changes) in [
            (
                falcon,
                &[
                    ("embedding_scale=2.0", "scale of the embedding"),
                    ("zero_centred_norms=true", "norms with 1 + weight"),
                    (
                        "rope_scaling={\"type\":\"ntk\",\"factor\":2.0}",
                        "rotary positions of the type ntk",
                    ),
                    ("activation=swiglu intermediate_size=96", "activations but gelu"),
                    ("use_bias_in_mlp=true", "biases in some places only"),
                ][..],
            ),
            (
                palm,
                &[
                    ("zero_centred_norms=true", "norms with 1 + weight"),
                    (
                        "rope_scaling={\"type\":\"linear\",\"factor\":2.0}",
                        "scaled rotary positions",
                    ),
                    ("num_kv_heads=2", "number of key-value heads but one"),
                    ("gpt_j_tied=false", "residual but the parallel one with one norm"),
                    ("no_weight_tying=true", "head but the embedding"),
                ],
            ),
        ] {
            assert_eq!(refusal(family, ""), None, "{family}");
            let of_both = [
                ("pos_emb=sinusoidal", "positions but rotary ones of whole heads"),
                (
                    "pos_emb=learned opt_pos_emb_offset=2",
                    "positions but rotary ones of whole heads",
                ),
                ("rotary_pct=0.5", "positions but rotary ones of whole heads"),
                ("norm=scalenorm", "norms but layer norms"),
                ("norm=non_parametric_layernorm", "norms but layer norms"),
                ("norm=rmsnorm qk_norm=head", "norms of queries and keys"),
                ("norm_place=around gpt_j_tied=false", "norms after branches"),
                ("sliding_window_width=3", "sliding windows"),
                ("moe_num_experts=2 activation=gelu", "experts"),
            ];
            for (change, want) in changes.iter().chain(&of_both) {
                let told = refusal(family, change).unwrap_or_default();
                let named = told.contains(&format!("no {want}"));
                assert!(named, "{family} with {change}: {told}");
            }
        }
        let told = refusal(falcon, "head_dim=16").unwrap_or_default();
        assert!(told.contains("heads of another width together than the model's"), "{told}");
    }

    #[test]
    fn pieces_are_ranges_of_one_dim() {
        let piece = |start, size| Piece { name: String::new(), shape: vec![], dim: 1, start, size };
        let w = Weight { name: "w".into(), dims: vec![2, 3, 2], pieces: vec![] };
        let whole: Vec<u8> = (0..24).collect();
        let (first, last) = (piece(0, 2), piece(2, 1));
        let parts = [w.split(&whole, &first, 2), w.split(&whole, &last, 2)];
        assert_eq!(parts[1], [8, 9, 10, 11, 20, 21, 22, 23]);
        let mut back = vec![0; 24];
        w.join(&mut back, &last, &parts[1], 2);
        w.join(&mut back, &first, &parts[0], 2);
        assert_eq!(back, whole);
    }
}
