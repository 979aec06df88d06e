//! A value is written and read by the same word everywhere.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_config::{
    Activation, Attention, Cooldown, Decay, Norm, PipePartition, PipeSchedule, Precision, Router,
};

/// Asserts that a value is its name in JSON, and is read back.
macro_rules! round_trip {
    ($($type:ident),*) => {$(
        for (name, value) in $type::ALL {
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(json, format!("{name:?}"));
            assert_eq!(serde_json::from_str::<$type>(&json).unwrap(), value);
            assert_eq!((value.name(), $type::parse(name)), (name, Some(value)));
        }
        let e = serde_json::from_str::<$type>("\"no such word\"").unwrap_err();
        assert!(e.to_string().contains($type::ALL[0].0), "{e}");
    )*};
}

#[test]
fn words_are_read_as_they_are_written() {
    round_trip!(
        Activation,
        Attention,
        Cooldown,
        Decay,
        Norm,
        PipePartition,
        PipeSchedule,
        Precision,
        Router
    );
    // What plans of this format hold.
    assert_eq!(serde_json::to_string(&Precision::Bf16).unwrap(), "\"bf16\"");
    assert_eq!(serde_json::to_string(&PipeSchedule::default()).unwrap(), "\"1f1b\"");
}
