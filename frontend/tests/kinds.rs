//! The rules of experts, and of the kinds of attention that layers have.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{GOOD, from_text, told};

#[test]
fn experts_have_their_rules() {
    let l = from_text(&[GOOD], &["moe_num_experts=8"]);
    assert_eq!(told(&l), [""; 0]);
    let m = l.config.unwrap().model.moe.unwrap();
    assert_eq!((m.experts, m.interval, m.top_k, m.capacity), (8, 1, 1, None));
    assert_eq!(m.router, neoxc_frontend::config::Router::Sinkhorn);
    let limited = ["moe_num_experts=4", "moe_token_dropping=true", "moe_eval_capacity_factor=2.0"];
    let c = from_text(&[GOOD], &limited).config.unwrap().model.moe.unwrap().capacity.unwrap();
    assert_eq!((c.train_factor, c.eval_factor, c.minimum), (1.0, 2.0, 4));
    // An expert with a gate is as wide as a dense MLP would be, or as is said.
    let width = |sets: &[&str]| {
        let m = from_text(&[GOOD], &[&["activation=swiglu", "moe_num_experts=2"], sets].concat());
        let m = m.config.unwrap().model;
        m.moe.unwrap().ffn.unwrap_or(m.intermediate_size)
    };
    assert_eq!(width(&["intermediate_size=63"]), 21);
    assert_eq!(width(&["intermediate_size=63", "moe_intermediate_size=5"]), 5);
    // One expert is none; other keys then say nothing.
    let l = from_text(&[GOOD], &["moe_num_experts=1", "moe_top_k=2"]);
    assert!(
        told(&l)[0].contains("without effect as there is one expert: moe_top_k"),
        "{:?}",
        told(&l)
    );
    assert_eq!(l.config.unwrap().model.moe, None);
    for (sets, want) in [
        (&["moe_num_experts=2", "moe_top_k=3"][..], "a token cannot go to 3 experts of 2"),
        (&["moe_num_experts=2", "moe_expert_interval=3"], "does not divide 2 layers"),
        (&["moe_num_experts=2", "moe_min_capacity=3"], "limits experts that drop nothing"),
        (&["moe_num_experts=2", "moe_loss_coeff=0.1"], "balances experts without a loss"),
        (
            &["moe_num_experts=2", "moe_router_type=hash"],
            "`moe_router_type` is \"hash\"; it must be `sinkhorn` or `topk`",
        ),
        (
            &["moe_num_experts=2", "moe_top_k=2", "moe_norm_topk_prob=true"],
            "a router of type sinkhorn does not divide weights by their sum",
        ),
        (
            &["moe_num_experts=2", "moe_router_type=topk", "moe_norm_topk_prob=true"],
            "the weight of a token's only expert would always be 1",
        ),
        (
            &[
                "moe_num_experts=2",
                "moe_intermediate_size=21",
                "model_parallel_size=2",
                "world_size=2",
                "enable_expert_tensor_parallelism=true",
            ],
            "2 tensor ranks do not divide 21 columns of an expert",
        ),
        (&["moe_num_experts=2", "moe_jitter_eps=0.1"], "`moe_jitter_eps` is not supported"),
        (
            &["moe_num_experts=2", "moe_expert_interval=2", "world_size=2", "pipe_parallel_size=2"],
            "2 stages cannot divide 1 periods of 2 layers each",
        ),
        (
            &[
                "num_layers=8",
                "moe_num_experts=2",
                "moe_expert_interval=4",
                "world_size=2",
                "pipe_parallel_size=2",
                "pipe_schedule=interleaved",
                "gradient_accumulation_steps=2",
            ],
            "a chunk has 2 layers, not a multiple of the 4 of a period of layer kinds",
        ),
    ] {
        let l = from_text(&[GOOD], sets);
        let told = told(&l);
        assert!(l.config.is_none() && told.len() == 1, "{sets:?}: {told:?}");
        assert!(told[0].contains(want), "{told:?}");
    }
}

/// A width is that of every layer, or of those that are called `sliding`; these need one.
#[test]
fn windows_are_of_every_layer_or_of_those_that_are_named() {
    let load = |sets: &[&str]| {
        let l = from_text(&[GOOD], &[&["num_layers=4"], sets].concat());
        let told = told(&l);
        let model = l.config.map(|c| c.model);
        (model.map(|m| (m.attention.iter().map(|a| a.name()).collect(), m.sliding_window)), told)
    };
    let some = r#"attention_config=[[["sliding", "global"], "all"]]"#;
    let rows: [(&[&str], &[&str], Option<usize>); 4] = [
        (&[], &["global"; 4], None),
        (&["sliding_window_width=0"], &["sliding"; 4], Some(0)),
        (
            &["sliding_window_width=7", r#"attention_config=[[["flash"], "all"]]"#],
            &["sliding"; 4],
            Some(7),
        ),
        (&["sliding_window_width=7", some], &["sliding", "global", "sliding", "global"], Some(7)),
    ];
    for (sets, kinds, window) in rows {
        assert_eq!(load(sets), (Some((kinds.to_vec(), window)), vec![]), "{sets:?}");
    }
    let (model, told) = load(&[some]);
    assert!(model.is_none() && told.len() == 1, "{told:?}");
    assert!(told[0].contains("layers of the kind `sliding` have no width"), "{told:?}");
}

/// The forms that GPT-NeoX takes, and what it would build something else from.
#[test]
fn kinds_of_attention_are_named_for_every_layer() {
    let kinds = |value: &str| {
        let l = from_text(&[GOOD], &["num_layers=4", &format!("attention_config={value}")]);
        let told = told(&l);
        (l.config.map(|c| c.model.attention.len()), told)
    };
    for value in [
        "[]",
        r#"[[["flash"], "all"]]"#,
        r#"[[["global", "flash"], 2]]"#,
        r#"[[["global"], 1], [["flash"], 3]]"#,
        r#"["global", "flash", "global", "flash"]"#,
        r#"[[["global"], "all"], [["global"], 4]]"#,
    ] {
        assert_eq!(kinds(value), (Some(4), vec![]), "{value}");
    }
    for (value, want) in [
        (r#"[[["global"], 3]]"#, "`attention_config` names 3 of 4 layers"),
        (r#"["global"]"#, "`attention_config` names 1 of 4 layers"),
        (r#"[[["global", "flash", "global"], "all"]]"#, "4 layers are not a multiple of 3 kinds"),
        (r#"[[["global"], "some"]]"#, "repeated the text \"some\" times"),
        (r#"[["global"]]"#, "is a list of kinds and a number"),
        (r#"[[["mamba"], "all"]]"#, "attention of the kind `mamba` is not supported yet"),
    ] {
        let (config, told) = kinds(value);
        assert!(config.is_none() && told.len() == 1 && told[0].contains(want), "{value}: {told:?}");
    }
}

/// What these layers have is no matter of attention heads.
#[test]
fn layers_of_other_kinds_are_told_alone() {
    let sets = ["attention_config=[[[\"mamba\"], 2]]", "num_attention_heads=3"];
    assert_eq!(from_text(&[GOOD], &sets).diagnostics.len(), 1);
}
