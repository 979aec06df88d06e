//! Diagnostic kinds of the frontend, one file each.

use neoxc_ir::diag::Kind;

pub mod adjusted_value;
pub mod conflict;
pub mod does_not_fit;
pub mod duplicate_key;
pub mod file;
pub mod impossible_value;
pub mod missing_key;
pub mod not_supported;
pub mod syntax;
pub mod unknown_key;
pub mod without_effect;
pub mod wrong_type;

/// All kinds, by code.
pub static ALL: &[&Kind] = &[
    &unknown_key::KIND,
    &wrong_type::KIND,
    &duplicate_key::KIND,
    &not_supported::KIND,
    &missing_key::KIND,
    &impossible_value::KIND,
    &conflict::KIND,
    &without_effect::KIND,
    &syntax::KIND,
    &file::KIND,
    &adjusted_value::KIND,
    &does_not_fit::KIND,
];

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_unique_and_explained() {
        for (i, k) in super::ALL.iter().enumerate() {
            assert!(super::ALL[..i].iter().all(|l| l.code != k.code));
            assert!(k.explanation.len() > 80 && !k.title.is_empty());
        }
    }
}
