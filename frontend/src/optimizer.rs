//! `optimizer` and `optimizer_type`: which optimizer, and its hyper-parameters, by the declarations of
//! `neoxc_optimizers`.

use neoxc_base::codes::{impossible_value, missing_key, not_supported, unknown_key, wrong_type};
use neoxc_optimizers::{Hyper, Settings, WEIGHT_DECAY, find, names};

use crate::config::{Cooldown, Decay, Group, LearningRate, Optimizer};
use crate::reader::{Reader, number};
use crate::yaml::{Key, Node, Value};

/// Why an optimizer that DeepSpeed or GPT-NeoX knows is not to be had, and what to use instead, if that is one.
fn without(name: &str) -> (&'static str, Option<&'static str>) {
    match name {
        "onebitadam" | "zerooneadam" | "onebitlamb" => (
            "ranks sum gradients in f32 before an update sees them, and what it compresses is that sum",
            Some("use `Adam`: `bias_correction: false` is the warm-up of 1-bit Adam"),
        ),
        "sm3" | "adafactor" => (
            "it keeps a number for each row and each column, and state is shaped like its parameter here",
            Some("use `Lion`, which keeps one number for each weight"),
        ),
        "adam8bit" | "adamw8bit" => ("optimizer state is f32 here", Some("use `Adam`")),
        _ => ("", None),
    }
}

impl Reader<'_> {
    /// The optimizer with its rate, its hyper-parameters and its groups.
    pub(crate) fn optimizer(&mut self) -> Option<Optimizer> {
        let (settings, lr) = self.optimizer_settings();
        let Some(lr) = lr else {
            if ["lr", "optimizer.params.lr"].into_iter().any(|name| self.was_refused(name))
                || self.is_absent("lr")
            {
                return None;
            }
            let hint = "`\"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 0.001}}`";
            self.tell(missing_key::missing_key("the learning rate", hint));
            return None;
        };
        self.cooldown();
        let iters = self.int("train_iters").unwrap_or(0);
        let fraction = self.given("lr_decay_fraction").unwrap_or(1.0);
        let decay_iters =
            self.int("lr_decay_iters").map_or((iters as f64 * fraction) as u64, |n| n as u64);
        let clip = self.given("gradient_clipping").unwrap_or_else(|| self.float("clip_grad"));
        let groups = self.parameter_groups();
        Some(Optimizer {
            groups,
            freeze: self.frozen_parameters(),
            rate: LearningRate {
                lr,
                min_lr: self.float("min_lr"),
                style: Decay::parse(&self.word("lr_decay_style")).unwrap_or_default(),
                iters: decay_iters.max(1),
                warmup: self.float("warmup"),
                cooldown: self.float("wsd_decay_ratio"),
                cooldown_style: Cooldown::parse(&self.word("wsd_decay_style")).unwrap_or_default(),
            },
            kind: settings.optimizer.name().into(),
            hypers: settings.values().map(|(name, x)| (name.to_string(), x)).collect(),
            gradient_clipping: clip,
        })
    }

    /// A cooldown is of the schedule that has one, and begins after the warm-up.
    fn cooldown(&mut self) {
        let style = "lr_decay_style";
        if self.word(style) != Decay::Wsd.name() {
            for key in ["wsd_decay_ratio", "wsd_decay_style"] {
                if self.find(key).is_some() {
                    let message = format!("`{key}` is of the schedule `wsd`");
                    self.both(message, key, style, "`--set lr_decay_style=wsd`, or remove it");
                }
            }
        } else if self.float("warmup") + self.float("wsd_decay_ratio") > 1.0 {
            let message = "the warm-up and the cooldown are longer than the schedule".to_string();
            self.both(message, "warmup", "wsd_decay_ratio", "together they are at most 1");
        }
    }

    /// The two decay rates of Adam's moments.
    fn betas(&mut self, node: &Node) -> Option<(f64, f64)> {
        const NAME: &str = "optimizer.params.betas";
        let Value::List(l) = &node.value else {
            self.nested(NAME, node);
            return None;
        };
        let numbers: Vec<f64> = l.iter().filter_map(|n| number(&n.value)).collect();
        let [a, b] = numbers[..] else {
            let want = "a list of two numbers";
            let hint = "floats need a dot or no exponent: `[0.9, 0.95]`";
            self.tell(wrong_type::wrong_type(NAME, "another list", want, &node.span, hint));
            return None;
        };
        self.nested(NAME, node);
        Some((a, b)).filter(|_| l.len() == 2)
    }

    /// The optimizer that the configuration asks for, and the learning rate if it is given.
    fn optimizer_settings(&mut self) -> (Settings, Option<f64>) {
        let mut lr = self.given("lr");
        let pairs = match self.find("optimizer").map(|(_, n)| n.value.clone()) {
            Some(Value::Map(pairs)) => pairs,
            _ => vec![],
        };
        let inner = pairs.iter().find(|(k, _)| k.name == "type").map(|(_, n)| n.clone());
        let outer = self.find("optimizer_type").map(|(_, n)| n.clone());
        let optimizer = self.kind_of_optimizer(inner.as_ref().or(outer.as_ref()));
        // GPT-NeoX copies the one to the other.
        let same = |n: &Node| matches!(&n.value, Value::Str(s) if optimizer.names.contains(&&*s.to_lowercase()));
        if inner.is_some() && outer.is_some_and(|n| !same(&n)) {
            let message = "`optimizer_type` is another one than `optimizer.type`".to_string();
            self.both(message, "optimizer", "optimizer_type", "leave out `optimizer_type`");
        }
        let decay = self.float(WEIGHT_DECAY.name);
        let settings = Settings::new(optimizer);
        let mut settings = settings.clone().with(WEIGHT_DECAY.name, decay).unwrap_or(settings);
        for (key, value) in &pairs {
            match (key.name.as_str(), &value.value) {
                ("type", _) => {}
                ("params", Value::Map(params)) => {
                    for (key, value) in params {
                        match key.name.as_str() {
                            "lr" => lr = self.nested("optimizer.params.lr", value).or(lr),
                            _ => self.hyper(&mut settings, key, value),
                        }
                    }
                }
                (name, _) => {
                    let what = "a key of `optimizer`, which has type and params";
                    self.tell(unknown_key::unknown_key(name, what, &key.span, None));
                }
            }
        }
        (settings, lr)
    }

    fn kind_of_optimizer(&mut self, kind: Option<&Node>) -> &'static neoxc_optimizers::Optimizer {
        let default = neoxc_optimizers::ALL[0];
        let Some(node) = kind else { return default };
        let (found, what) = match &node.value {
            Value::Str(s) => (find(s), format!("the optimizer `{s}`")),
            v => (None, format!("an optimizer whose type is {}", v.describe())),
        };
        found.unwrap_or_else(|| {
            let (why, instead) = match &node.value {
                Value::Str(s) => without(&s.to_lowercase()),
                _ => ("", None),
            };
            let all = || format!("use one of {}; adam is AdamW", names());
            let instead = instead.map_or_else(all, str::to_string);
            self.tell(not_supported::not_supported(&what, why, &node.span, &instead));
            default
        })
    }

    /// Sets what a key of `optimizer.params` says.
    fn hyper(&mut self, settings: &mut Settings, key: &Key, node: &Node) {
        let all = settings.optimizer.hypers;
        let hypers: Vec<&Hyper> = all.iter().filter(|h| h.key == key.name).collect();
        let name = format!("optimizer.params.{}", key.name);
        let values = match hypers[..] {
            [] => {
                let mut keys: Vec<&str> = all.iter().map(|h| h.key).collect();
                keys.dedup();
                let of = settings.optimizer.name();
                let what = format!("a parameter of {of}: lr, {}", keys.join(", "));
                self.tell(unknown_key::unknown_key(&key.name, &what, &key.span, None));
                return;
            }
            [one] if matches!(one.range, neoxc_optimizers::Range::Words(_)) => {
                let neoxc_optimizers::Range::Words(words) = one.range else { return };
                self.nested(&name, node);
                let at = words.iter().position(|w| node.value == Value::Str((*w).into()));
                at.map(|n| vec![n as f64])
            }
            [one] if one.at.is_none() => self.nested(&name, node).map(|x| vec![x]),
            _ => self.betas(node).map(|(a, b)| vec![a, b]),
        };
        for (hyper, x) in hypers.into_iter().zip(values.unwrap_or_default()) {
            match settings.clone().with(hyper.name, x) {
                Some(with) => *settings = with,
                None if self.was_refused(&name) => {}
                None => {
                    let range = hyper.range.to_string();
                    let d =
                        impossible_value::out_of_range(&name, &x.to_string(), &range, &node.span);
                    self.tell(d);
                }
            }
        }
    }

    /// `param_groups`: a list of dictionaries.
    fn parameter_groups(&mut self) -> Vec<Group> {
        let Some((_, node)) = self.find("param_groups").cloned() else { return vec![] };
        let Value::List(entries) = &node.value else { return vec![] };
        entries.iter().filter_map(|entry| self.parameter_group(entry)).collect()
    }

    /// `freeze`: a list of patterns.
    fn frozen_parameters(&mut self) -> Vec<String> {
        let Some((_, node)) = self.find("freeze").cloned() else { return vec![] };
        let Value::List(entries) = &node.value else { return vec![] };
        let mut patterns = vec![];
        for entry in entries {
            match &entry.value {
                Value::Str(pattern) => patterns.push(pattern.clone()),
                other => {
                    let message = format!("a pattern of `freeze` is {}", other.describe());
                    let hint = "`freeze: [\"gpt_neox.embed_in.weight\", \"*.attention.*\"]`";
                    let d = impossible_value::impossible_value(
                        &message,
                        &entry.span,
                        "no name of a parameter",
                        hint,
                    );
                    self.tell(d);
                }
            }
        }
        patterns
    }

    fn parameter_group(&mut self, entry: &Node) -> Option<Group> {
        const HINT: &str =
            "`param_groups: [{params: \"*norm*\", lr_scale: 0.5, weight_decay: 0.0}]`";
        let Value::Map(pairs) = &entry.value else {
            let message = "a group of `param_groups` is a dictionary";
            self.tell(impossible_value::impossible_value(message, &entry.span, "is not", HINT));
            return None;
        };
        let mut group = Group { params: String::new(), lr_scale: 1.0, weight_decay: None };
        for (key, node) in pairs {
            let name = format!("param_groups.{}", key.name);
            match (key.name.as_str(), &node.value) {
                ("params", Value::Str(pattern)) => group.params.clone_from(pattern),
                ("params", _) => self.nested(&name, node).map_or((), drop),
                ("lr_scale", _) => group.lr_scale = self.nested(&name, node)?,
                ("weight_decay", _) => group.weight_decay = Some(self.nested(&name, node)?),
                (name, _) => {
                    let what = "a key of a group, which has params, lr_scale and weight_decay";
                    self.tell(unknown_key::unknown_key(name, what, &key.span, None));
                }
            }
        }
        if group.params.is_empty() && !self.was_refused("param_groups.params") {
            let message = "a group of `param_groups` does not say which parameters it has";
            self.tell(impossible_value::impossible_value(
                message,
                &entry.span,
                "no `params`",
                HINT,
            ));
            return None;
        }
        Some(group)
    }
}
