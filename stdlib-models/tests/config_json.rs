//! `config.json`: every key is honoured or refused by name.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_models::families::hugging_face::{Says, read, rotary_part};
use neoxc_models::families::{self, Family};
use serde_json::{Value, json};

fn formats() -> impl Iterator<Item = &'static dyn Family> {
    families::ALL.iter().copied().filter(|f| f.hugging_face().is_some())
}

/// What a configuration says at least, where null is something else than the class's default.
fn least(family: &dyn Family) -> Value {
    let mut json = json!({ "model_type": family.name() });
    if ["mistral", "mixtral", "qwen3_moe"].contains(&family.name()) {
        json["sliding_window"] = Value::Null;
    }
    if ["mistral", "mixtral"].contains(&family.name()) {
        json["num_key_value_heads"] = Value::Null;
    }
    json
}

/// A dictionary of rotary positions where a class has one for each kind of layers.
fn of_positions(family: &dyn Family, key: &str, value: Value) -> Value {
    match (family.name(), key) {
        ("gemma3_text", "rope_parameters") => json!({ "full_attention": value }),
        _ => value,
    }
}

fn sets(
    family: &dyn Family,
    key: &str,
    value: Value,
) -> Result<Vec<(String, String)>, Vec<String>> {
    let mut json = least(family);
    json[key] = value;
    read(&json).map(|d| d.sets)
}

/// Falcon's first form has one key for all heads or one for each, its second form as many as it says.
#[test]
fn the_forms_of_falcon_read_their_own_keys() {
    let falcon = |keys: Value| {
        let mut json = json!({"model_type": "falcon", "num_attention_heads": 8, "num_kv_heads": 2});
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        read(&json).map(|d| d.sets)
    };
    for (keys, kv, tied) in [
        (json!({}), "1", "true"),
        (json!({"multi_query": false}), "8", "true"),
        (json!({"parallel_attn": false}), "1", "false"),
        (json!({"new_decoder_architecture": true}), "2", "false"),
        (json!({"new_decoder_architecture": true, "num_ln_in_parallel_attn": 1}), "2", "true"),
    ] {
        let sets = falcon(keys.clone()).unwrap();
        for (key, want) in [("num_kv_heads", kv), ("gpt_j_tied", tied)] {
            let got = sets.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
            assert_eq!(got, Some(want), "{keys}: {key}");
        }
    }
    assert!(falcon(json!({"num_ln_in_parallel_attn": 2})).is_err());
    assert!(falcon(json!({"new_decoder_architecture": true, "parallel_attn": false})).is_err());
}

/// Gemma 3's layers with windows have positions of their own, in both forms of its files; a list of layers wins over a pattern.
#[test]
fn the_layers_of_gemma_3_read_their_own_keys() {
    let gemma = |keys: Value| {
        let mut json =
            json!({"model_type": "gemma3_text", "num_hidden_layers": 3, "hidden_size": 16});
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        read(&json).map(|d| d.sets)
    };
    let kinds = |list: [&str; 3]| json!({"layer_types": list.map(|k| format!("{k}_attention"))});
    let (full, sliding) = ("full", "sliding");
    let nested = json!({
        "rope_parameters": {
            "full_attention": {"rope_theta": 7e5, "rope_type": "linear", "factor": 8},
            "sliding_attention": {"rope_theta": 7e3, "rope_type": "default"},
        },
        "sliding_window_pattern": 2,
    });
    let flat = json!({
        "rope_theta": 7e5, "rope_local_base_freq": 7e3, "sliding_window_pattern": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 8},
    });
    let two = r#"["sliding", "global", "sliding"]"#;
    for (keys, key, want) in [
        (&nested, "rotary_emb_base", Some("700000")),
        (&nested, "sliding_rotary_emb_base", Some("7000")),
        (&nested, "rope_scaling", Some("{rope_type: linear, factor: 8}")),
        (&nested, "attention_config", Some(two)),
        (&flat, "rotary_emb_base", Some("700000")),
        (&flat, "sliding_rotary_emb_base", Some("7000")),
        (&flat, "rope_scaling", Some("{rope_type: linear, factor: 8}")),
        (&flat, "attention_config", Some(two)),
        (&json!({}), "attention_config", Some(r#"["sliding", "sliding", "sliding"]"#)),
        // All have windows: the base is that of windows.
        (&json!({}), "rotary_emb_base", Some("10000")),
        (&json!({}), "sliding_rotary_emb_base", None),
        (&json!({"sliding_window": 9}), "sliding_window_width", Some("8")),
        (&json!({}), "embedding_scale", Some("4.00000000000000000000")),
        (
            &kinds([full, sliding, full]),
            "attention_config",
            Some(r#"["global", "sliding", "global"]"#),
        ),
        (&kinds([full; 3]), "sliding_window_width", None),
        (&kinds([full; 3]), "rotary_emb_base", Some("1000000")),
    ] {
        let sets = gemma(keys.clone()).unwrap();
        let got = sets.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!(got, want, "{keys}: {key}");
    }
    for (keys, want) in [
        (json!({"layer_types": ["full_attention"]}), "a list of 3"),
        (json!({"sliding_window": null}), "no width of them is given"),
        (json!({"rope_parameters": {"rope_type": "linear"}}), "a dictionary for"),
        (
            json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 8}}}),
            "positions in layers with windows are not scaled",
        ),
        (json!({"use_bidirectional_attention": true}), "`use_bidirectional_attention` is true"),
        (json!({"attn_logit_softcapping": 50.0}), "`attn_logit_softcapping` is 50.0"),
    ] {
        let told = gemma(keys.clone()).unwrap_err();
        assert!(told.iter().any(|t| t.contains(want)), "{keys}: {told:?}");
    }
}

#[test]
fn configurations_may_name_every_family() {
    let names: Vec<&str> = families::ALL.iter().map(|f| f.name()).collect();
    assert_eq!(names, neoxc_config::FAMILIES);
}

/// Whatever is declared to say something of the model changes its keys, or is refused by its name.
#[test]
fn every_key_is_honoured_or_refused_by_name() {
    for family in formats() {
        let format = family.hugging_face().unwrap();
        let default = sets(family, "model_type", family.name().into()).unwrap();
        for (key, says) in format.all_keys().filter(|(key, _)| *key != "model_type") {
            let values = [
                json!(3),
                json!(200),
                json!(0.125),
                json!(true),
                json!(false),
                json!("relu"),
                json!("gelu_new"),
                json!("silu"),
                json!({"a": 1}),
            ];
            let read: Vec<_> = values.map(|v| sets(family, key, v)).into_iter().collect();
            let named = |e: &[String]| e.iter().any(|p| p.contains(key));
            let refused = |r: &Result<_, Vec<String>>| r.as_ref().is_err_and(|e| named(e));
            let changed = |r: &Result<Vec<_>, _>| r.as_ref().is_ok_and(|s| *s != default);
            match says {
                Says::Model => {
                    assert!(read.iter().all(|r| refused(r) || r.is_ok()), "{key}: {read:?}");
                    assert!(read.iter().any(refused), "{key} takes anything");
                    assert!(
                        read.iter().any(changed)
                            || *key == "architectures"
                            || key.starts_with("rope_")
                            || ["head_dim", "layer_types"].contains(key)
                            // Read in the second of two forms only, which has a test of its own.
                            || family.name() == "falcon" && ["num_kv_heads", "num_ln_in_parallel_attn"].contains(key),
                        "{key} changes nothing"
                    );
                }
                Says::Only(_) => assert!(read.iter().any(refused), "{key} takes anything"),
                Says::SpecialId | Says::Nothing => {
                    assert!(read.iter().all(|r| r.as_ref().is_ok_and(|s| *s == default)), "{key}");
                }
            }
            match sets(family, key, Value::Null) {
                // The class cannot do without these.
                Err(told) if ["gemma3_text", "qwen3_moe"].contains(&family.name()) => {
                    let needed: &[&str] = match family.name() {
                        "gemma3_text" => &["head_dim", "num_key_value_heads", "sliding_window"],
                        _ => &["num_key_value_heads"],
                    };
                    assert!(needed.contains(key) && named(&told), "{key}: {told:?}");
                }
                read => assert_eq!(read.unwrap(), default, "{key} may be null"),
            }
        }
        let told = sets(family, "attention_softcap", json!(30.0)).unwrap_err();
        assert!(told[0].contains("`attention_softcap` is not known"), "{told:?}");
    }
}

#[test]
fn rotary_positions_are_read_or_refused_by_name() {
    for family in formats() {
        for (key, value, want) in [
            (
                "rope_scaling",
                json!({"type": "dynamic", "factor": 4.0}),
                "`rope_scaling.rope_type` is \"dynamic\"",
            ),
            (
                "rope_scaling",
                json!({"rope_type": "default", "factor": 2.0}),
                "`rope_scaling.factor` is 2.0",
            ),
            (
                "rope_parameters",
                json!({"rope_type": "linear", "factor": "two"}),
                "`rope_parameters.factor` is \"two\"",
            ),
            (
                "rope_parameters",
                json!({"rope_theta": 10000.5}),
                "`rope_parameters.rope_theta` is 10000.5",
            ),
        ] {
            let told = sets(family, key, of_positions(family, key, value)).unwrap_err();
            let want = match family.name() {
                "gemma3_text" => want.replace("parameters.", "parameters.full_attention."),
                _ => want.to_string(),
            };
            assert!(told.iter().any(|t| t.contains(&want)), "{told:?}");
        }
        let scaling = |json: Value| {
            let json = of_positions(family, "rope_parameters", json);
            let all = sets(family, "rope_parameters", json).unwrap();
            all.into_iter().find(|(k, _)| k == "rope_scaling").unwrap().1
        };
        let linear = json!({"type": "linear", "factor": 4, "rope_theta": 1e4});
        assert_eq!(scaling(linear), "{rope_type: linear, factor: 4}");
        // Hugging Face takes the length of a sequence where the original one is left out: the class's own default here.
        let positions = match family.name() {
            "mistral" | "mixtral" | "gemma3_text" => 131_072,
            name if name.starts_with("qwen") => 32_768,
            _ => 2048,
        };
        assert_eq!(
            scaling(json!({"rope_type": "yarn", "factor": 0.5, "truncate": false})),
            format!(
                "{{rope_type: yarn, factor: 0.50000000000000000000, truncate: false, \
                 original_max_position_embeddings: {positions}}}"
            )
        );
        let other = json!({
            "model_type": family.name(),
            "rope_scaling": {"type": "linear", "factor": 2},
            "rope_parameters":
                of_positions(family, "rope_parameters", json!({"type": "linear", "factor": 3})),
        });
        assert!(read(&other).unwrap_err()[0].contains("scale differently"));
        let base = |key: &str, value| {
            let all = sets(family, key, of_positions(family, key, value)).unwrap();
            all.into_iter().find(|(k, _)| k == "rotary_emb_base").unwrap().1
        };
        assert_eq!(
            base("rope_parameters", json!({"rope_type": "default", "rope_theta": 5e5})),
            "500000"
        );
        assert_eq!(base("rope_theta", json!(1000000.0)), "1000000");
        let mut both = least(family);
        both["rope_theta"] = json!(1e4);
        let parameters = json!({"rope_theta": 5e5});
        both["rope_parameters"] = of_positions(family, "rope_parameters", parameters);
        let told = read(&both).unwrap_err();
        assert!(told[0].contains(".rope_theta` is 500000"), "{told:?}");
    }
}

#[test]
fn other_models_are_refused_by_name() {
    assert!(
        read(&json!({"model_type": "mamba"})).unwrap_err()[0].contains("`model_type` is \"mamba\"")
    );
    let json = json!({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]});
    assert!(read(&json).unwrap_err()[0].contains("LlamaForSequenceClassification"));
    assert!(read(&json!([])).is_err());
}

/// Hugging Face takes int(head · part): no quotient may be rounded below its whole number.
#[test]
fn rotary_parts_come_back_as_they_were() {
    for head in 1usize..300 {
        for dims in 0..=head {
            assert_eq!((head as f64 * rotary_part(dims, head)) as usize, dims, "{dims} of {head}");
        }
    }
}
