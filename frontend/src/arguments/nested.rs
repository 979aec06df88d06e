//! Keys inside dictionaries that this version reads, under names with dots. Those of `optimizer.params` are not written
//! here: they are the hyper-parameters that the optimizers declare.

use std::sync::LazyLock;

use neoxc_optimizers::{ALL, Hyper, WEIGHT_DECAY, names};

use super::{Argument, Kind, Preset, Range, argument, flag, float, int, text, word};

/// Loss scales that an f32 holds with room for what it multiplies.
const LEAST_SCALE: f64 = 5.421_010_862_427_522e-20; // 2^-64
const MOST_SCALE: f64 = 18_446_744_073_709_551_616.0; // 2^64

/// Keys of `optimizer`, `zero_optimization`, `fp16`, `rope_scaling`, `bf16` and `data_types`.
pub static NESTED: LazyLock<Vec<Argument>> = LazyLock::new(|| {
    let kind = text("optimizer.type").says("Adam");
    let doc = format!("The optimizer's name, in any case: {}.", names());
    let mut all = vec![kind.doc(Box::leak(doc.into_boxed_str()))];
    all.extend(PARAMS);
    all.extend(hypers());
    all.extend(REST);
    all
});

/// The hyper-parameters of all optimizers, a key each.
fn hypers() -> Vec<Argument> {
    let mut keys: Vec<&str> = ALL.iter().flat_map(|o| o.hypers).map(|h| h.key).collect();
    let mut seen = std::collections::BTreeSet::new();
    keys.retain(|key| seen.insert(*key));
    keys.into_iter().map(of_key).collect()
}

/// What the optimizers that have a hyper-parameter under `key` say of it. A value is held to the range of the
/// optimizer that is used; the range here is that of all of them.
fn of_key(key: &'static str) -> Argument {
    let of = |h: &&Hyper| h.key == key;
    let all: Vec<&Hyper> = ALL.iter().flat_map(|o| o.hypers).filter(of).collect();
    let flag = all.iter().all(|h| h.range == neoxc_optimizers::Range::Flag);
    let several = all.iter().any(|h| h.at.is_some());
    let same = all.iter().all(|h| h.default == all[0].default);
    // GPT-NeoX's top-level `weight_decay` is the default of the nested one.
    let default = match all[0].default {
        _ if several || !same || key == WEIGHT_DECAY.key => Preset::Null,
        x if flag => Preset::Bool(x != 0.0),
        x => Preset::Number(x),
    };
    let words = match all[0].range {
        neoxc_optimizers::Range::Words(words) => Some(words),
        _ => None,
    };
    let default = match (words, all[0].default) {
        (Some(words), n) => Preset::Text(words[n as usize]),
        _ => default,
    };
    let kind = match () {
        () if words.is_some() => Kind::Str,
        () if several => Kind::List,
        () if flag => Kind::Bool,
        () => Kind::Float,
    };
    // The box is made once in a process: a table's texts live as long as the program.
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let a = argument(leak(format!("optimizer.params.{key}")), kind, default);
    let range = match words {
        Some(supported) => Range::Words { supported, others: &[] },
        None if flag => Range::Any,
        None => range(&all),
    };
    Argument { range, ..a }.doc(leak(doc(key, default)))
}

/// The range that has all of theirs.
fn range(all: &[&Hyper]) -> Range {
    let (mut low, mut high, mut open) = (f64::INFINITY, f64::NEG_INFINITY, true);
    for h in all {
        let (least, most, excluded) = match h.range {
            neoxc_optimizers::Range::Closed(least, most) => (least, most, false),
            neoxc_optimizers::Range::HalfOpen(least, end) => (least, end, true),
            neoxc_optimizers::Range::Flag | neoxc_optimizers::Range::Words(_) => (0.0, 1.0, false),
        };
        low = low.min(least);
        open = if most > high { excluded } else { open && (most < high || excluded) };
        high = high.max(most);
    }
    if open { Range::Below(low, high) } else { Range::Between(low, high) }
}

/// Sentences, one for each optimizer that says something else than the one before it. Defaults stand in them where the
/// table has no place for these.
fn doc(key: &str, default: Preset) -> String {
    let mut sentences: Vec<(String, String)> = vec![];
    for o in ALL {
        let parts = o.hypers.iter().filter(|h| h.key == key).map(|h| match default {
            Preset::Null => format!("{} ({} without it)", h.doc, h.default),
            _ => h.doc.to_string(),
        });
        let mut parts: Vec<String> = parts.collect();
        if key == WEIGHT_DECAY.key {
            parts = vec![format!("{}; `{key}` without it", WEIGHT_DECAY.doc)];
        }
        match sentences.iter_mut().find(|(_, said)| *said == parts.join(", ")) {
            _ if parts.is_empty() => {}
            Some((whose, _)) => *whose += &format!(", `{}`", o.name()),
            None => sentences.push((format!("`{}`", o.name()), parts.join(", "))),
        }
    }
    let all: Vec<String> =
        sentences.iter().map(|(whose, said)| format!("{whose}: {said}.")).collect();
    all.join(" ")
}

#[rustfmt::skip] // a table: a key begins a line
const PARAMS: [Argument; 2] = [
    argument("optimizer.params", Kind::Dict, Preset::Null).doc("The optimizer's numbers."),
    float("optimizer.params.lr").below(0.0, f64::INFINITY).doc("Peak learning rate."),
];

#[rustfmt::skip] // a table: a key begins a line
static REST: &[Argument] = &[
    text("param_groups.params").doc("Which parameters a group has: their logical name, in which `*` stands for any characters: `*.attention.*`. The number of a layer is `{layer}`: all layers are in one group."),
    float("param_groups.lr_scale").number(1.0).between(0.0, 1e6).doc("What the learning rate of the group's parameters is multiplied by; at 0 they stay as they are."),
    float("param_groups.weight_decay").between(0.0, 100.0).doc("Weight decay of those of them that decay; the optimizer's without it."),
    int("zero_optimization.stage").number(0.0).between(0.0, 3.0).doc("What data ranks divide: nothing (0), optimizer state (1), sums of gradients too (2), weights too (3)."),
    flag("fp16.enabled", false).doc("Whether the dictionary counts."),
    flag("fp16.fp16", false).doc("As `enabled`, which wins."),
    text("fp16.type").says("fp16").doc("`fp16`, or `bfloat16`, which makes it bf16 training."),
    float("fp16.loss_scale").number(0.0).between(0.0, MOST_SCALE).doc("A fixed loss scale; 0 for one that follows overflows."),
    int("fp16.initial_scale_power").number(16.0).between(0.0, 64.0).doc("The first loss scale is 2 to this power."),
    int("fp16.loss_scale_window").number(1000.0).between(1.0, 1e12).doc("The loss scale doubles after so many steps without an overflow."),
    int("fp16.hysteresis").number(2.0).between(1.0, 1e9).doc("With ZeRO 1 to 3: from this many overflows on each one divides the loss scale by 2. Without ZeRO the first one does, as in DeepSpeed."),
    flag("fp16.consecutive_hysteresis", false).doc("With ZeRO 1 to 3: whether only overflows of neighbouring steps count together."),
    float("fp16.min_loss_scale").number(1.0).below(LEAST_SCALE, MOST_SCALE).doc("The loss scale does not fall below this. An overflow there ends the run with ZeRO 1 to 3, and is skipped without, as in DeepSpeed."),
    word("rope_scaling.rope_type", "", &["default", "linear", "ntk", "yarn", "llama3"], &["dynamic", "longrope", "mrope", "proportional", "su"]).unset()
        .doc("`linear` divides all frequencies by `factor`; `ntk` raises the base so that the lowest frequency is divided; `yarn` and `llama3` divide low frequencies and keep high ones. Older files call it `type`."),
    float("rope_scaling.factor").between(1.0, 1e6).doc("How much longer sequences become."),
    int("rope_scaling.original_max_position_embeddings").between(1.0, 16_777_216.0).doc("Tokens of a sequence before (`yarn`, `llama3`)."),
    float("rope_scaling.low_freq_factor").between(1e-6, 1e6).doc("`llama3`: turns within the original length below which a frequency is divided."),
    float("rope_scaling.high_freq_factor").between(1e-6, 1e6).doc("`llama3`: turns above which it stays."),
    float("rope_scaling.beta_fast").number(32.0).between(1e-6, 1e6).doc("`yarn`: turns within the original length from which on a frequency stays."),
    float("rope_scaling.beta_slow").number(1.0).between(1e-6, 1e6).doc("`yarn`: turns up to which it is divided."),
    float("rope_scaling.attention_factor").between(1e-6, 1e6).doc("`yarn`: a factor of what is rotated of queries and keys; without it 0.1·ln(factor) + 1, or what `mscale` and `mscale_all_dim` give."),
    float("rope_scaling.mscale").between(0.0, 1e6).doc("`yarn`: with `mscale_all_dim` the factor is (0.1·mscale·ln(factor) + 1) / (0.1·mscale_all_dim·ln(factor) + 1)."),
    float("rope_scaling.mscale_all_dim").between(0.0, 1e6).doc("`yarn`: see `mscale`."),
    flag("rope_scaling.truncate", true).doc("`yarn`: the ramp between kept and divided frequencies begins and ends at whole pairs of dims."),
    flag("bf16.enabled", false).doc("Whether the dictionary counts."),
    text("data_types.grad_accum_dtype").says("fp32").doc("Dtype of sums of gradients: `fp32`."),
];
