//! The rules of positions, norms and start values.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_frontend::config::{Norm, RopeScaling, Start};
use neoxc_frontend::{Loaded, load};

fn from_text(text: &str, sets: &[&str]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yml");
    std::fs::write(&file, text).unwrap();
    load(&[file], None, &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

/// The message of each problem, without lints.
fn told(l: &Loaded) -> Vec<String> {
    let all = l.diagnostics.iter().filter(|d| d.kind.code != "NX0115");
    all.map(|d| d.message.clone()).collect()
}

const GOOD: &str = r#"{
  # comment
  "num-layers": 2, "hidden_size": 8, "num_attention_heads": 2,
  "seq_length": 16, "padded_vocab_size": 64, "pos-emb": "rotary", "rotary_pct": 0.5,
  "gpt-j-residual": True, "no-weight-tying": true,
  "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1.0e-8}},
  "train_micro_batch_size_per_gpu": 4, "train_iters": 10,
}"#;

#[test]
fn scaled_rotary_positions_have_their_rules() {
    let yarn = "rope_scaling={rope_type: yarn, factor: 4, original_max_position_embeddings: 16";
    let llama = "rope_scaling={rope_type: llama3, factor: 4, original_max_position_embeddings: 16, \
                 low_freq_factor: 1.0, high_freq_factor: ";
    for (sets, want) in [
        (&["rope_scaling={factor: 2}"][..], "`rope_type` of `rope_scaling` is missing"),
        (&["rope_scaling={rope_type: linear}"], "`factor` of the rope_scaling `linear` is missing"),
        (&["rope_scaling={rope_type: linear, factor: 0.5}"], "`rope_scaling.factor` is 0.5"),
        (&["rope_scaling={rope_type: linear, factor: two}"], "`rope_scaling.factor` is"),
        (&["rope_scaling={rope_type: 7}"], "`rope_scaling.rope_type` is"),
        (
            &["rope_scaling={rope_type: dynamic, factor: 2}"],
            "the type `dynamic` is not supported yet",
        ),
        (
            &["rope_scaling={type: longrope}"],
            "`rope_scaling.rope_type: longrope` is not supported yet",
        ),
        (&["rope_scaling={type: lineal}"], "`rope_scaling.rope_type` is \"lineal\""),
        (&["rope_scaling={type: ntk, factor: 2, rope_theta: 5}"], "unknown key `rope_theta`"),
        (&["rope_scaling={type: ntk, factor: 2, mscale: 1}"], "unknown key `mscale`"),
        (&["rope_scaling={type: ntk, factor: 2}", "pos_emb=none"], "there are none"),
        (&[&format!("{yarn}, beta_slow: 40}}")], "`beta_slow` is 40, and `beta_fast` is 32"),
        (&[&format!("{yarn}}}"), "rotary_emb_base=1"], "all are 1"),
        (&[&format!("{yarn}, truncate: 3}}")], "`rope_scaling.truncate` is"),
        (&[&format!("{llama}0.5}}")], "`low_freq_factor` is 1, and `high_freq_factor` is 0.5"),
    ] {
        let l = from_text(GOOD, sets);
        let told = told(&l);
        assert!(l.config.is_none() && told.len() == 1, "{sets:?}: {told:?}");
        assert!(told[0].contains(want), "{told:?}");
    }
    let scaling = |sets: &[&str]| from_text(GOOD, sets).config.unwrap().model.rope_scaling;
    assert_eq!(scaling(&["rope_scaling={rope_type: default}"]), None);
    assert_eq!(scaling(&["rope_scaling={}"]), None);
    let linear = scaling(&["rope_scaling={type: dynamic, rope_type: linear, factor: 3}"]);
    assert_eq!(linear, Some(RopeScaling::Linear { factor: 3.0 }));
    // 0.1 · ln 4 + 1.
    let yarn = scaling(&[&format!("{yarn}, beta_fast: 8.0}}")]).unwrap();
    let RopeScaling::Yarn { attention_factor, beta_fast, beta_slow, truncate, .. } = yarn else {
        panic!("{yarn:?}")
    };
    assert!((attention_factor - 1.138_629_436_111_989).abs() < 1e-12);
    assert_eq!((beta_fast, beta_slow, truncate), (8.0, 1.0, true));
}

#[test]
fn norms_and_added_positions_have_their_rules() {
    for (sets, want) in [
        (&["zero_centred_norms=true", "norm=scalenorm"][..], "has no weights to which 1"),
        (&["opt_pos_emb_offset=2"], "is about a learned table, and there is none"),
        (
            &["opt_pos_emb_offset=2", "pos_emb=learned", "max_position_embeddings=17"],
            "positions reach to 18, and the table has 17 rows",
        ),
        (
            &["pos_emb=sinusoidal", "hidden_size=9", "num_attention_heads=1", "rotary_pct=1"],
            "9 dims cannot be as many sines",
        ),
        (&["sliding_rotary_emb_base=100"], "no layer has a sliding window: `rotary_emb_base` is"),
        (
            &["sliding_rotary_emb_base=100", "sliding_window_width=3"],
            "all layers have a sliding window: `rotary_emb_base` is",
        ),
        (&["init_method=orthogonal"], "`init_method: orthogonal` is not supported yet"),
    ] {
        let l = from_text(GOOD, sets);
        let told = told(&l);
        assert!(l.config.is_none() && told.len() == 1, "{sets:?}: {told:?}");
        assert!(told[0].contains(want), "{told:?}");
    }
    let model = |sets: &[&str]| from_text(GOOD, sets).config.unwrap().model;
    assert_eq!(model(&["norm=te_rmsnorm"]).norm, Norm::RmsNorm);
    assert_eq!(model(&["norm=te_layernorm"]).norm, Norm::LayerNorm);
    let m = model(&["norm=scalenorm", "scalenorm_epsilon=0.5"]);
    assert_eq!((m.norm, m.layernorm_epsilon), (Norm::ScaleNorm, 0.5));
    // Without a length the table is as long as it must be.
    assert_eq!(model(&["pos_emb=learned", "opt_pos_emb_offset=2"]).max_position_embeddings, 18);
    let m = model(&["init_method=xavier_uniform"]);
    assert_eq!((m.init_std, m.output_init_std), (Start::XavierUniform, 0.01.into()));
}
