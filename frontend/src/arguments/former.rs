//! Keys that GPT-NeoX had once or that its users write, with what to write today. They are unknown keys: this is what
//! their message says beside that.

/// The key, what is written in its place, and whether that is only another name with the same value.
pub(crate) struct Former {
    /// As it is written.
    pub(crate) key: &'static str,
    /// A hint, or the new name.
    pub(crate) now: &'static str,
    /// Whether the value stays.
    pub(crate) renamed: bool,
}

const fn renamed(key: &'static str, now: &'static str) -> Former {
    Former { key, now, renamed: true }
}

const fn written(key: &'static str, now: &'static str) -> Former {
    Former { key, now, renamed: false }
}

const FORMER: [Former; 7] = [
    renamed("save_interval", "checkpoint_factor"),
    renamed("label_data_paths", "train_label_data_paths"),
    written("warmup_iters", "write `warmup`, the fraction `warmup_iters` / `lr_decay_iters`"),
    written("decay_lr_to", "write `min_lr`, the rate itself: `decay_lr_to` × `lr`"),
    written("attention_type", "write `attention_config`, such as `[[[\"flash\"], \"all\"]]`"),
    written(
        "mlp_type",
        "remove it: `mlp_type: llama` is `activation: swiglu` with an `intermediate_size` of three \
         times the width",
    ),
    written("autotuning_config", "remove it: `neoxc tune` measures kernels instead"),
];

/// What became of `key`.
pub(crate) fn former(key: &str) -> Option<&'static Former> {
    FORMER.iter().find(|f| f.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_keys_are_no_keys_and_new_names_are() {
        for f in &FORMER {
            assert!(super::super::find(f.key).is_none(), "{}", f.key);
            assert_eq!(super::super::find(f.now).is_some(), f.renamed, "{}", f.key);
        }
    }
}
