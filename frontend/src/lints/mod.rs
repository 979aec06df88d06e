//! Traps of GPT-NeoX, a file each: configurations that it takes in another way than they read, or that often mean
//! something else than what was wanted.
//!
//! A lint warns, and never changes what is compiled: neoxc does what the configuration says. To add one, write its file
//! and name it in the list below. `docs/lints.md`, `neoxc explain NAME` and the test of the examples read it there.

use neoxc_base::codes::trap;
use neoxc_base::diag::Severity;

use crate::config::Config;
use crate::reader::Reader;

/// One trap.
#[derive(Debug)]
pub struct Lint {
    /// Words with hyphens; they never change.
    pub name: &'static str,
    /// What GPT-NeoX does, what neoxc does, and what to write, in sentences.
    pub text: &'static str,
    /// Lines of a configuration that walks into it.
    pub wrong: &'static str,
    /// The same without it.
    pub right: &'static str,
    /// Looks for it in a configuration that was checked, and in its keys.
    check: fn(&Config, &Reader<'_>) -> Option<Finding>,
}

/// What a lint found.
struct Finding {
    /// A sentence with the numbers of this case.
    message: String,
    /// Keys that make it; those that are given are shown.
    keys: &'static [&'static str],
    /// What to write.
    hint: String,
}

/// Declares the files and the list of their lints.
macro_rules! lints {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*

        /// All lints, by name.
        pub static ALL: &[&Lint] = &[$(&$name::LINT),*];
    };
}

lints![
    another_tokenizer,
    attention_dropped,
    bf16_accumulation,
    biases_of_tensor_ranks,
    biases_under_sequence_parallel,
    cosine_past_its_end,
    dropout_without_biases,
    equal_micro_batches,
    gated_experts,
    gated_width,
    labels_of_one_set,
    learned_padding,
    linear_towards_zero,
    lion_betas,
    unbiased_norms,
    weight_decay_in_params,
    weights_by_documents,
];

/// The lint called `name`, with `-` or `_`.
pub fn find(name: &str) -> Option<&'static Lint> {
    ALL.iter().copied().find(|l| l.name == name.replace('_', "-"))
}

/// What `neoxc explain NAME` prints.
pub fn explain(name: &str) -> Option<String> {
    let lint = find(name)?;
    let indent = |text: &str| text.lines().map(|l| format!("  {l}\n")).collect::<String>();
    let (wrong, right) = (indent(lint.wrong), indent(lint.right));
    Some(format!("{}: {}\n\nTold of:\n{wrong}Not told of:\n{right}", lint.name, lint.text))
}

/// `docs/lints.md`.
pub fn page() -> String {
    let mut out = "\
# Lints

Traps of GPT-NeoX that `neoxc check` and `neoxc compile` warn of (NX0115). neoxc does what the configuration says; a lint
tells where GPT-NeoX does something else, or where something else was probably meant. `neoxc explain NAME` prints an
entry of this page, which is made from `frontend/src/lints/`: `NEOXC_BLESS=1 cargo test -p neoxc-frontend --test documents`
writes it again.
"
    .to_string();
    for lint in ALL {
        let (name, text, wrong, right) = (lint.name, lint.text, lint.wrong, lint.right);
        out += &format!(
            "\n## {name}\n{text}\n\n```yaml\n# told of\n{wrong}\n```\n```yaml\n# not told of\n{right}\n```\n"
        );
    }
    out
}

/// Tells of every trap that the configuration walks into. Where there are errors, these come first, alone.
pub(crate) fn run(c: &Config, r: &mut Reader<'_>) {
    if r.diagnostics.iter().any(|d| d.severity == Severity::Error) {
        return;
    }
    for lint in ALL {
        let Some(found) = (lint.check)(c, r) else { continue };
        let keys: Vec<_> = found.keys.iter().map(|k| (*k, "this")).collect();
        let places = r.places(&keys);
        r.tell(trap::trap(lint.name, &found.message, &places, &found.hint));
    }
}
