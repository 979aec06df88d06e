//! Every diagnostic, a file each: code, title, explanation, example, and the function that makes one.
//!
//! `NX00xx` are mistakes of neoxc, `NX01xx` of a configuration as it is read, `NX02xx` of a configuration as
//! the compiler's passes find them, `NXR…` failures of a run. A code is never reused. To add one, write
//! its file and name it in the list below: `neoxc explain`, the tests and the exit codes read it there.

use crate::diag::Kind;

/// Declares the files and the list of their kinds.
macro_rules! codes {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*

        /// All kinds, by code.
        pub static ALL: &[&Kind] = &[$(&$name::KIND),*];
    };
}

codes![
    internal_error,
    unknown_key,
    wrong_type,
    duplicate_key,
    not_supported,
    missing_key,
    impossible_value,
    conflict,
    without_effect,
    syntax,
    file,
    adjusted_value,
    does_not_fit,
    assumed_vocabulary,
    overridden_place,
    trap,
    mamba_layers,
    rwkv_layers,
    gmlp_layers,
    sparse_attention,
    transformer_engine,
    maximal_update,
    post_training,
    online_data,
    soft_prompts,
    undivided_dim,
    uncomputed_dtype,
    undivided_layers,
    no_main_target,
    unresumable_module,
    unreadable_module,
    unready_module,
    unknown_name,
    unknown_parameter,
    command_line,
    undivided_state,
    io,
    exists,
    held,
    data,
    plan,
    checkpoint,
    draws,
    hugging_face,
    kernels,
    settings,
    not_finite,
    memory,
    loss_scale,
    tokenizer,
    link,
    job,
    lost,
];

/// The kind whose code is `code`, in any case.
pub fn find(code: &str) -> Option<&'static Kind> {
    ALL.iter().copied().find(|k| k.code.eq_ignore_ascii_case(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Example;

    #[test]
    fn codes_are_sorted_explained_and_shown() {
        let order = |k: &&&Kind| (k.code.starts_with("NXR"), k.code);
        let codes: Vec<_> = ALL.iter().map(|k| order(&k)).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        for k in ALL {
            assert!(k.explanation.len() > 80 && !k.title.is_empty(), "{}", k.code);
            assert!(k.explanation.lines().all(|l| l.len() <= 110), "{}: long lines", k.code);
            assert!(!k.explanation.ends_with('\n') && k.exit <= 7, "{}", k.code);
            match k.example {
                Example::Config { wrong, right } => assert!(wrong != right, "{}", k.code),
                Example::Session(text) => {
                    assert!(text.starts_with("$ ") && text.contains(k.code), "{}", k.code);
                }
            }
        }
    }

    #[test]
    fn a_code_is_found_in_any_case() {
        assert_eq!(find("nx0001").map(|k| k.code), Some("NX0001"));
        assert!(find("NX9999").is_none());
    }
}
