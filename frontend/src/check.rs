//! Merged keys → [`Config`]: every key known, every value of its type and in its range, every rule
//! of GPT-NeoX applied. All problems are collected before anything stops.

use std::collections::BTreeMap;

use neoxc_ir::diag::{Diagnostic, Kind as DiagKind, Span};
use neoxc_ir::nearest::nearest;

use crate::arguments::{ARGUMENTS, Kind, Neutral, Status, find};
use crate::config::{Config, Model, Optimizer, Parallel, Precision, Run};
use crate::diagnostics::{
    adjusted_value, conflict, impossible_value, missing_key, not_supported, unknown_key,
    without_effect, wrong_type,
};
use crate::merge::Merged;
use crate::tokenizer::KINDS;
use crate::yaml::{Key, Node, Value};

/// Reads typed values and collects what is wrong.
pub(crate) struct Reader<'a> {
    keys: &'a Merged,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
}

/// Checks everything; `None` where a value is missing that nothing can stand for.
pub fn check(keys: &Merged, diagnostics: &mut Vec<Diagnostic>) -> Option<Config> {
    let mut r = Reader { keys, diagnostics };
    r.every_key();
    let model = r.model();
    let optimizer = r.optimizer();
    let parallel = r.parallel(model.as_ref());
    let run = r.run(parallel);
    r.batch_arithmetic(parallel);
    if let Some(run) = &run {
        r.groups_of_micro_batches(parallel, run.grad_accum);
    }
    let places = keys
        .iter()
        .map(|(k, _)| (k.name.clone(), (k.span.file.to_string(), k.span.line, k.span.column)))
        .collect::<BTreeMap<_, _>>();
    Some(Config { model: model?, optimizer: optimizer?, run: run?, parallel, places })
}

/// The numbers that a key may be given.
#[derive(Debug, Clone, Copy)]
enum Range {
    /// Finite numbers from here on.
    From(f64),
    /// From 0 on, below this.
    Below(f64),
}

/// Rates, epsilons, decays.
const POSITIVE: Range = Range::From(0.0);
/// What is left of a whole that is never taken away altogether.
const PART: Range = Range::Below(1.0);

impl Range {
    fn has(self, value: f64) -> bool {
        match self {
            Range::From(low) => value.is_finite() && value >= low,
            Range::Below(high) => (0.0..high).contains(&value),
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Range::From(low) => write!(f, "a finite number from {low} on"),
            Range::Below(high) => write!(f, "from 0 to below {high}"),
        }
    }
}

pub(crate) fn number(v: &Value) -> Option<f64> {
    match v {
        Value::Int(i) => Some(*i as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

impl Reader<'_> {
    pub(crate) fn error(
        &mut self,
        kind: &'static DiagKind,
        message: String,
        span: &Span,
        label: &str,
        hint: &str,
    ) {
        let mut d = Diagnostic::error(kind, message).label(span, label);
        if !hint.is_empty() {
            d = d.hint(hint);
        }
        self.diagnostics.push(d);
    }

    fn every_key(&mut self) {
        let mut idle: Vec<(&Key, &str)> = vec![];
        for (key, node) in self.keys {
            let Some(arg) = find(&key.name) else {
                let near = nearest(&key.name, ARGUMENTS.iter().map(|a| a.name));
                let hint = near.map(|a| format!("did you mean `{a}`?")).unwrap_or_default();
                let message = format!("unknown key `{}`", key.name);
                self.error(
                    &unknown_key::KIND,
                    message,
                    &key.span,
                    "not an argument of GPT-NeoX",
                    &hint,
                );
                continue;
            };
            let fits = match (&node.value, arg.kind) {
                (Value::Null, _) | (_, Kind::Any) => true,
                (Value::Int(_), Kind::Int | Kind::Float) | (Value::Float(_), Kind::Float) => true,
                // Whole floats are taken as NeoX's own files use them (`lr-decay-iters: 143000.0`).
                (Value::Float(x), Kind::Int) => x.fract() == 0.0 && x.abs() < 1e15,
                (Value::Bool(_), Kind::Bool)
                | (Value::Str(_), Kind::Str)
                | (Value::List(_), Kind::List)
                | (Value::Map(_), Kind::Dict) => true,
                _ => false,
            };
            if !fits {
                let hint = match &node.value {
                    Value::Str(s) if s.replace('_', "").parse::<f64>().is_ok() => {
                        let x: f64 = s.replace('_', "").parse().unwrap_or(0.0);
                        format!("YAML 1.1 reads this as text; write {}", with_dot(x))
                    }
                    _ => String::new(),
                };
                let want = format!("{:?}", arg.kind).to_lowercase();
                let message = format!("`{}` is {}, not {want}", key.name, node.value.describe());
                self.error(
                    &wrong_type::KIND,
                    message,
                    &node.span,
                    &format!("expected {want}"),
                    &hint,
                );
                continue;
            }
            match arg.status {
                Status::Supported => {}
                Status::WithoutEffect => idle.push((key, "no effect on a compiled plan")),
                Status::Unread => idle.push((key, "nothing reads it in GPT-NeoX either")),
                Status::NotYet => {
                    let neutral = match (&node.value, arg.neutral) {
                        (Value::Null, _) => true,
                        (Value::Bool(a), Neutral::Bool(b)) => *a == b,
                        (Value::Bool(a), Neutral::None) => !*a,
                        (v, Neutral::Number(b)) => number(v) == Some(b),
                        (Value::Str(a), Neutral::Text(b)) => a == b,
                        (Value::List(l), _) => l.is_empty(),
                        (Value::Map(m), _) => m.is_empty() || disabled(m),
                        _ => false,
                    };
                    if !neutral {
                        let message = format!("`{}`: not supported yet", key.name);
                        let hint = match arg.neutral {
                            Neutral::None => format!("remove it, or `--set {}=null`", key.name),
                            Neutral::Bool(b) => format!("`--set {}={b}`", key.name),
                            Neutral::Number(x) => format!("`--set {}={x}`", key.name),
                            Neutral::Text(t) => format!("`--set {}=\"{t}\"`", key.name),
                        };
                        self.error(
                            &not_supported::KIND,
                            message,
                            &key.span,
                            "asked for here",
                            &hint,
                        );
                    }
                }
            }
        }
        if let Some((first, _)) = idle.first() {
            let names: Vec<&str> = idle.iter().map(|(k, _)| k.name.as_str()).collect();
            let message = format!("known, but without effect here: {}", names.join(", "));
            let mut d = Diagnostic::warning(&without_effect::KIND, message);
            let label = idle[0].1;
            d = d.label(&first.span, label);
            self.diagnostics.push(d);
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<&'_ (Key, Node)> {
        self.keys.iter().find(|(k, n)| k.name == name && n.value != Value::Null)
    }

    pub(crate) fn int(&mut self, name: &str, low: i64, high: i64) -> Option<usize> {
        let (_, node) = self.find(name)?;
        let span = node.span.clone();
        let value = match node.value {
            Value::Int(i) => i,
            Value::Float(x) => x as i64,
            _ => return None,
        };
        if (low..=high).contains(&value) {
            return usize::try_from(value).ok();
        }
        let message = format!("`{name}` is {value}; it must be from {low} to {high}");
        self.error(&impossible_value::KIND, message, &span, "out of range", "");
        None
    }

    pub(crate) fn float(&mut self, name: &str, default: f64, low: f64, high: f64) -> f64 {
        let Some((_, node)) = self.find(name) else { return default };
        let Some(value) = number(&node.value) else { return default };
        let span = node.span.clone();
        if !(low..=high).contains(&value) {
            let message = format!("`{name}` is {value}; it must be from {low} to {high}");
            self.error(&impossible_value::KIND, message, &span, "out of range", "");
        }
        value
    }

    /// The part of something that is dropped: what is left must be scaled up, so not all of it.
    fn rate(&mut self, name: &str) -> f64 {
        self.within(name, PART).unwrap_or(0.0)
    }

    /// The number of a key, if it is in its range.
    fn within(&mut self, name: &str, range: Range) -> Option<f64> {
        let (_, node) = self.find(name)?.clone();
        self.number_within(name, &node, range)
    }

    /// The number in `node`, which is what `name` is given, if it is in its range.
    fn number_within(&mut self, name: &str, node: &Node, range: Range) -> Option<f64> {
        let value = number(&node.value)?;
        if range.has(value) {
            return Some(value);
        }
        let message = format!("`{name}` is {value}; it must be {range}");
        self.error(&impossible_value::KIND, message, &node.span, "out of range", "");
        None
    }

    pub(crate) fn bool(&self, name: &str, default: bool) -> bool {
        match self.find(name).map(|(_, n)| &n.value) {
            Some(Value::Bool(b)) => *b,
            _ => default,
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.find(name).map(|(_, n)| &n.value) {
            Some(Value::Str(s)) => Some(s.clone()),
            _ => None,
        }
    }

    fn required(&mut self, name: &str, low: i64, high: i64) -> Option<usize> {
        if self.find(name).is_none() {
            let d = Diagnostic::error(&missing_key::KIND, format!("`{name}` is missing"));
            self.diagnostics.push(d.hint(format!("add it to a file, or `--set {name}=…`")));
            return None;
        }
        self.int(name, low, high)
    }

    /// One of `choices`, each supported; anything else is not supported yet.
    pub(crate) fn choice(&mut self, name: &str, default: &str, choices: &[&str]) -> String {
        let Some((key, node)) = self.find(name) else { return default.to_string() };
        let Value::Str(s) = &node.value else { return default.to_string() };
        if choices.contains(&s.as_str()) {
            return s.clone();
        }
        let (span, s, key) = (node.span.clone(), s.clone(), key.name.clone());
        let message = format!("`{key}` {s:?}: not supported yet");
        self.error(
            &not_supported::KIND,
            message,
            &span,
            "asked for here",
            &format!("one of {}", choices.join(", ")),
        );
        default.to_string()
    }

    fn model(&mut self) -> Option<Model> {
        let layers = self.required("num_layers", 1, 100_000);
        let hidden = self.required("hidden_size", 1, 1 << 20);
        let heads = self.required("num_attention_heads", 1, 1 << 16);
        let seq = self.required("seq_length", 1, 1 << 24);
        let positions = self.int("max_position_embeddings", 1, 1 << 24);
        self.choice("norm", "layernorm", &["layernorm"]);
        self.choice("activation", "gelu", &["gelu"]);
        self.choice("data_impl", "infer", &["infer", "mmap"]);
        self.attention_kinds();
        let precision = self.precision();
        let pos_emb = self.choice("pos_emb", "learned", &["learned", "rotary", "none"]);
        let pct = self.float("rotary_pct", 1.0, 0.0, 1.0);
        let base = self.float("rotary_emb_base", 10_000.0, 1.0, 1e12);
        let eps = self.float("layernorm_epsilon", 1e-5, 0.0, 1.0);
        let (hidden_dropout, attention_dropout) =
            (self.rate("hidden_dropout"), self.rate("attention_dropout"));
        let std = self.float("init_method_std", 0.02, 0.0, 100.0);
        let intermediate = self.int("intermediate_size", 1, 1 << 22);
        let factor = self.float("expansion_factor", 4.0, 0.01, 1000.0);
        let multiple = self.int("mlp_multiple_of", 1, 1 << 20).unwrap_or(1);
        let padded = self.int("padded_vocab_size", 1, 1 << 26);
        let divisor = self.int("make_vocab_size_divisible_by", 1, 1 << 20).unwrap_or(128);
        let vocab = self.vocabulary(padded);
        let methods = ["normal", "scaled_normal", "small_init", "wang_init"];
        let init = self.choice("init_method", "normal", &methods);
        let output = self.choice("output_layer_init_method", "scaled_normal", &methods);
        let (layers, hidden, heads, seq) = (layers?, hidden?, heads?, seq?);
        if hidden % heads != 0 {
            let message = format!("{heads} heads do not divide a hidden size of {hidden}");
            self.both(message, "hidden_size", "num_attention_heads", "choose a multiple");
            return None;
        }
        let head = hidden / heads;
        let rotary = (head as f64 * pct) as usize;
        if pos_emb == "rotary" && (rotary == 0 || !rotary.is_multiple_of(2)) {
            let message =
                format!("{rotary} rotary dims per head: they must be even and at least 2");
            self.both(
                message,
                "rotary_pct",
                "num_attention_heads",
                "head size × rotary_pct must be even",
            );
        }
        if pos_emb == "learned" && positions.is_some_and(|p| p < seq) {
            let message = format!("{seq} tokens do not fit {} positions", positions.unwrap_or(0));
            self.both(
                message,
                "seq_length",
                "max_position_embeddings",
                "raise max_position_embeddings",
            );
        }
        let moe = self.moe(layers);
        let checkpoint = match self.bool("checkpoint_activations", false) {
            true => Some(self.checkpoint_group(layers, moe.map_or(1, |m| m.interval))),
            false => None,
        };
        let sigma = |method: &str| match method {
            "small_init" => (2.0 / (5.0 * hidden as f64)).sqrt(),
            "wang_init" => 2.0 / layers as f64 / (hidden as f64).sqrt(),
            "scaled_normal" => std / (2.0 * layers as f64).sqrt(),
            _ => std,
        };
        if let (Some(given), Some(ids)) = (padded, vocab)
            && ids > given
        {
            let message = format!("the tokenizer has {ids} ids, the embedding {given} rows");
            self.both(message, "padded_vocab_size", "vocab_file", "raise it, or leave it out");
        }
        let padded = padded.or(vocab.map(|v| v.div_ceil(divisor) * divisor))?;
        Some(Model {
            num_layers: layers,
            hidden_size: hidden,
            num_attention_heads: heads,
            intermediate_size: intermediate
                .unwrap_or((hidden as f64 * factor) as usize)
                .next_multiple_of(multiple),
            seq_length: seq,
            max_position_embeddings: positions.unwrap_or(seq),
            vocab_size: vocab,
            padded_vocab_size: padded,
            pos_emb,
            rotary_dims: rotary,
            rotary_emb_base: base,
            layernorm_epsilon: eps,
            gpt_j_residual: self.bool("gpt_j_residual", false),
            gpt_j_tied: self.bool("gpt_j_residual", false) && self.bool("gpt_j_tied", false),
            gelu_tanh: self.bool("bias_gelu_fusion", false),
            use_bias_in_norms: self.bool("use_bias_in_norms", true),
            use_bias_in_attn_linear: self.bool("use_bias_in_attn_linear", true),
            use_bias_in_mlp: self.bool("use_bias_in_mlp", true),
            moe,
            precision,
            tied: !self.bool("no_weight_tying", false),
            init_std: sigma(&init),
            output_init_std: sigma(&output),
            hidden_dropout,
            attention_dropout,
            checkpoint,
        })
    }

    /// Layers recomputed together: groups have one size, so it must divide the number of layers, and be
    /// whole turns of layers of several kinds.
    fn checkpoint_group(&mut self, layers: usize, turn: usize) -> usize {
        let wanted = self.int("checkpoint_num_layers", 1, 100_000).unwrap_or(1);
        let turns = layers / turn;
        let group = (1..=(wanted / turn).min(turns)).rev().find(|k| turns.is_multiple_of(*k));
        let group = group.unwrap_or(1) * turn;
        if group != wanted {
            let message = format!("{layers} layers are recomputed in groups of {group}");
            let labels =
                [("checkpoint_num_layers", "does not divide"), ("num_layers", "this number")];
            self.adjusted(message, &labels, "choose a divisor of `num_layers`");
        }
        group
    }

    /// A warning that something else is done than what was asked for.
    pub(crate) fn adjusted(&mut self, message: String, labels: &[(&str, &str)], hint: &str) {
        let mut d = Diagnostic::warning(&adjusted_value::KIND, message).hint(hint);
        for (name, text) in labels {
            if let Some((_, n)) = self.find(name) {
                d = d.label(&n.span, *text);
            }
        }
        self.diagnostics.push(d);
    }

    /// A conflict between two keys, both shown where they are given.
    pub(crate) fn both(&mut self, message: String, a: &str, b: &str, hint: &str) {
        let mut d = Diagnostic::error(&conflict::KIND, message).hint(hint);
        for name in [a, b] {
            if let Some((_, n)) = self.find(name) {
                d = d.label(&n.span, format!("`{name}`"));
            }
        }
        self.diagnostics.push(d);
    }

    /// `attention_config`: global and flash are one thing here.
    fn attention_kinds(&mut self) {
        let Some((_, node)) = self.find("attention_config") else { return };
        let mut stack = vec![node.clone()];
        while let Some(n) = stack.pop() {
            match n.value {
                Value::List(l) => stack.extend(l),
                Value::Str(s) if !["global", "flash", "all"].contains(&s.as_str()) => {
                    let message = format!("attention {s:?}: not supported yet");
                    self.error(
                        &not_supported::KIND,
                        message,
                        &n.span,
                        "asked for here",
                        "`global` or `flash`",
                    );
                }
                _ => {}
            }
        }
    }

    /// f32, or bfloat16: by `precision`, by `bf16`, or by an `fp16` whose `type` is bfloat16. As in GPT-NeoX
    /// these must agree.
    fn precision(&mut self) -> Precision {
        let name = self.choice("precision", "fp32", &["fp32", "bfloat16"]);
        let mut asked =
            self.find("precision").map(|(key, _)| (key.span.clone(), name == "bfloat16"));
        for name in ["fp16", "bf16"] {
            let Some((key, node)) = self.find(name).cloned() else { continue };
            let Value::Map(m) = &node.value else { continue };
            if disabled(m) {
                continue;
            }
            let kind = m.iter().find(|(k, _)| k.name == "type").map(|(_, n)| &n.value);
            let bf16 = name == "bf16" || matches!(kind, Some(Value::Str(s)) if s == "bfloat16");
            if !bf16 {
                let message = "`fp16`: not supported yet; bfloat16 needs no loss scaling";
                let hint =
                    "`--set fp16.enabled=false`, and `--set precision=bfloat16` for bfloat16";
                let span = key.span.clone();
                self.error(&not_supported::KIND, message.into(), &span, "asked for here", hint);
                continue;
            }
            if let Some((other, false)) = &asked {
                let message = format!("`{name}` is enabled, but `precision` is fp32");
                let d = Diagnostic::error(&conflict::KIND, message);
                let d = d.label(&key.span, "bfloat16 here").label(other, "f32 here");
                self.diagnostics.push(d.hint("`--set precision=bfloat16`, or remove one of them"));
            }
            asked.get_or_insert((key.span.clone(), true));
        }
        self.sums_of_gradients();
        match asked {
            Some((_, true)) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// `data_types.grad_accum_dtype`: sums of gradients are f32.
    fn sums_of_gradients(&mut self) {
        let Some((_, node)) = self.find("data_types") else { return };
        let Value::Map(m) = &node.value else { return };
        let given = m.iter().find(|(k, _)| k.name == "grad_accum_dtype").map(|(_, n)| n.clone());
        let Some(given) = given else { return };
        if !matches!(&given.value, Value::Null)
            && !matches!(&given.value, Value::Str(s) if s == "fp32")
        {
            let message = "`grad_accum_dtype`: gradients are summed in f32".to_string();
            let hint = "`--set data_types.grad_accum_dtype=\"fp32\"`";
            self.error(&not_supported::KIND, message, &given.span, "asked for here", hint);
        }
    }

    fn optimizer(&mut self) -> Option<Optimizer> {
        let mut lr = self.within("lr", POSITIVE);
        let (mut betas, mut eps) = ((0.9, 0.999), 1e-8);
        let mut decay = self.float("weight_decay", 0.1, 0.0, 100.0);
        if let Some((_, node)) = self.find("optimizer").cloned()
            && let Value::Map(pairs) = node.value
        {
            for (key, value) in pairs {
                match (key.name.as_str(), &value.value) {
                    ("type", Value::Str(s))
                        if s.eq_ignore_ascii_case("adam") || s.eq_ignore_ascii_case("adamw") => {}
                    ("type", v) => {
                        let message = format!("optimizer {}: not supported yet", v.describe());
                        self.error(
                            &not_supported::KIND,
                            message,
                            &value.span,
                            "asked for here",
                            "Adam",
                        );
                    }
                    ("params", Value::Map(params)) => {
                        for (key, value) in params {
                            match (key.name.as_str(), &value.value) {
                                ("lr", v) if number(v).is_some() => {
                                    // A rate out of range is told as such, not as one that is missing.
                                    lr = self.number_within("lr", value, POSITIVE).or(Some(0.0));
                                }
                                ("eps", v) if number(v).is_some() => {
                                    eps = self.number_within("eps", value, POSITIVE).unwrap_or(eps);
                                }
                                ("weight_decay", v) if number(v).is_some() => {
                                    let given = self.number_within("weight_decay", value, POSITIVE);
                                    decay = given.unwrap_or(decay);
                                }
                                ("betas", Value::List(l))
                                    if l.len() == 2
                                        && l.iter().all(|b| number(&b.value).is_some()) =>
                                {
                                    let [a, b] = [0, 1].map(|i| {
                                        self.number_within("betas", &l[i], PART).unwrap_or(0.0)
                                    });
                                    betas = (a, b);
                                }
                                (name, v) => {
                                    let message =
                                        format!("optimizer parameter `{name}` is {}", v.describe());
                                    self.error(
                                        &wrong_type::KIND,
                                        message,
                                        &value.span,
                                        "cannot be used",
                                        "lr, betas, eps or weight_decay; floats need a dot",
                                    );
                                }
                            }
                        }
                    }
                    (name, _) => {
                        let message = format!("unknown key `{name}` in `optimizer`");
                        self.error(
                            &unknown_key::KIND,
                            message,
                            &key.span,
                            "not known",
                            "type and params",
                        );
                    }
                }
            }
        }
        self.choice("optimizer_type", "adam", &["adam"]);
        let Some(lr) = lr else {
            let d = Diagnostic::error(&missing_key::KIND, "the learning rate is missing");
            self.diagnostics
                .push(d.hint("`\"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 0.001}}`"));
            return None;
        };
        let iters = self.given("train_iters").unwrap_or(0.0).max(0.0);
        let fraction = self.float("lr_decay_fraction", 1.0, 0.0, 1.0);
        let decay_iters = self
            .int("lr_decay_iters", 1, i64::MAX / 2)
            .map_or((iters * fraction) as u64, |n| n as u64);
        let clip = self.float("clip_grad", 1.0, 0.0, 1e9);
        let clip = self.float("gradient_clipping", clip, 0.0, 1e9);
        Some(Optimizer {
            lr,
            min_lr: self.float("min_lr", 0.0, 0.0, 1e9),
            betas,
            eps,
            weight_decay: decay,
            gradient_clipping: clip,
            lr_decay_style: self.choice(
                "lr_decay_style",
                "linear",
                &["constant", "linear", "cosine", "exponential"],
            ),
            lr_decay_iters: decay_iters.max(1),
            warmup: self.float("warmup", 0.01, 0.0, 1.0),
        })
    }

    fn run(&mut self, parallel: Parallel) -> Option<Run> {
        let data = parallel.copies();
        let big = i64::MAX / 2;
        let train_iters = self.required("train_iters", 0, big);
        let micro = self.int("train_micro_batch_size_per_gpu", 1, 1 << 20);
        let micro = micro.or_else(|| self.int("batch_size", 1, 1 << 20));
        let accum = self.int("gradient_accumulation_steps", 1, 1 << 20);
        let global = self.int("train_batch_size", 1, 1 << 30);
        let accum = match (global, micro, accum) {
            (Some(g), Some(m), None) => (g / m / data).max(1),
            (_, _, a) => a.unwrap_or(1),
        };
        let micro = micro.or(global.map(|g| (g / accum / data).max(1)));
        let Some(micro) = micro else {
            let d = Diagnostic::error(&missing_key::KIND, "the micro-batch size is missing");
            self.diagnostics.push(d.hint("`--set train_micro_batch_size_per_gpu=4`"));
            return None;
        };
        let saves = self.extra_saves();
        let train = self.single_path("train_data_paths");
        let valid = self.single_path("valid_data_paths");
        let log = self.choice("checkpoint_scale", "linear", &["linear", "log"]) == "log";
        let factor = self.checkpoint_factor(log);
        let (iteration, finetune) = self.start();
        Some(Run {
            micro_batch: micro,
            grad_accum: accum,
            train_iters: train_iters? as u64,
            seed: self.int("seed", 0, i64::from(u32::MAX)).unwrap_or(1234) as u32,
            eval_interval: self.int("eval_interval", 1, big).unwrap_or(1000) as u64,
            eval_iters: self.int("eval_iters", 0, big).unwrap_or(100) as u64,
            log_interval: self.int("log_interval", 1, big).unwrap_or(100) as u64,
            save: self.text("save"),
            load: self.text("load"),
            iteration,
            finetune,
            checkpoint_factor: factor,
            checkpoint_log: log,
            extra_save_iters: saves,
            keep_last: self.int("keep_last_n_checkpoints", 1, big),
            data_path: self.text("data_path"),
            train_data: train,
            valid_data: valid,
            split: self.text("split").unwrap_or_else(|| "969, 30, 1".into()),
            tokenizer_type: self.text("tokenizer_type").unwrap_or_else(|| KINDS[0].into()),
            vocab_file: self.beside("vocab_file"),
            merge_file: self.beside("merge_file"),
            eod_mask_loss: self.bool("eod_mask_loss", false),
        })
    }

    /// Steps between checkpoints, or the factor by which they grow; GPT-NeoX asserts the same of both.
    fn checkpoint_factor(&mut self, log: bool) -> Option<f64> {
        let (_, node) = self.find("checkpoint_factor")?.clone();
        let Some(factor) = number(&node.value) else {
            let message = format!("`checkpoint_factor` is {}, not a number", node.value.describe());
            let hint = "write it without quotes";
            self.error(&wrong_type::KIND, message, &node.span, "expected a number", hint);
            return None;
        };
        let (fits, want) = match log {
            true => (factor > 1.0 && factor.is_finite(), "above 1 where checkpoint_scale is log"),
            false => (factor >= 1.0 && factor.fract() == 0.0, "a whole number from 1 on"),
        };
        if !fits {
            let message = format!("`checkpoint_factor` is {factor}; it must be {want}");
            self.error(&impossible_value::KIND, message, &node.span, "out of range", "");
        }
        Some(factor)
    }

    /// Further steps to save at.
    fn extra_saves(&mut self) -> Vec<u64> {
        let Some((_, node)) = self.find("extra_save_iters").cloned() else { return vec![] };
        let Value::List(list) = node.value else { return vec![] };
        let mut steps = vec![];
        for n in list {
            match number(&n.value).filter(|x| *x >= 0.0 && x.fract() == 0.0) {
                Some(step) => steps.push(step as u64),
                None => {
                    let message = format!("a step to save at is {}", n.value.describe());
                    let hint = "whole numbers from 0 on";
                    self.error(&impossible_value::KIND, message, &n.span, "no step", hint);
                }
            }
        }
        steps
    }

    /// Which of the checkpoints that `load` names a run goes on from, and whether it takes the weights only.
    fn start(&mut self) -> (Option<u64>, bool) {
        let iteration = self.int("iteration", 0, i64::MAX / 2).map(|n| n as u64);
        let finetune = self.bool("finetune", false);
        if self.find("load").is_none() {
            for (key, asks) in [("iteration", iteration.is_some()), ("finetune", finetune)] {
                if asks {
                    let message =
                        format!("`{key}` is about what `load` names, and it names nothing");
                    self.both(message, key, "load", "add `load`, or remove it");
                }
            }
        }
        (iteration, finetune)
    }

    fn single_path(&mut self, name: &str) -> Option<String> {
        let (_, node) = self.find(name)?;
        let Value::List(l) = &node.value else { return None };
        match &l[..] {
            [Node { value: Value::Str(s), .. }] => Some(s.clone()),
            [] => None,
            _ => {
                let span = node.span.clone();
                let message = format!("`{name}` with several data sets: not supported yet");
                self.error(&not_supported::KIND, message, &span, "asked for here", "give one path");
                None
            }
        }
    }

    /// The number given for a key.
    pub(crate) fn given(&self, name: &str) -> Option<f64> {
        self.keys.iter().find(|(k, _)| k.name == name).and_then(|(_, v)| number(&v.value))
    }
}

/// A dictionary such as `fp16` that switches itself off.
fn disabled(map: &[(Key, Node)]) -> bool {
    let given = |name: &str| map.iter().find(|(k, _)| k.name == name).map(|(_, n)| &n.value);
    match (given("enabled"), given("fp16")) {
        (Some(Value::Bool(b)), _) => !*b,
        (None, Some(Value::Bool(b))) => !*b,
        _ => map.is_empty(),
    }
}

fn with_dot(x: f64) -> String {
    let text = format!("{x:e}");
    match text.split_once('e') {
        Some((m, e)) if !m.contains('.') => {
            format!("{m}.0e{}{e}", if e.starts_with('-') { "" } else { "+" })
        }
        Some((m, e)) if !e.starts_with('-') => format!("{m}e+{e}"),
        _ => text,
    }
}
