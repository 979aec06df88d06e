//! `attention_config`: what each layer attends to.

use neoxc_base::codes::{
    gmlp_layers, impossible_value, mamba_layers, not_supported, rwkv_layers, sparse_attention,
};
use neoxc_base::diag::Span;

use crate::config::Attention;
use crate::reader::Reader;
use crate::yaml::{Node, Value};

impl Reader<'_> {
    /// The kind of each layer, as GPT-NeoX reads the key: `[[[kinds…], n], …]` repeats the inner list n times, or
    /// with `all` to the last layer; a flat list names every layer. `flash` is `global` here.
    ///
    /// Then how many tokens a sliding window has. It is that of the layers of the kind `sliding`, which GPT-NeoX does not
    /// have, or without them of all layers.
    pub(crate) fn attention(&mut self, layers: usize) -> (Vec<Attention>, Option<usize>) {
        let mut kinds = self.attention_kinds(layers);
        let window = self.int("sliding_window_width");
        let sliding = kinds.contains(&Attention::Sliding);
        if window.is_some() && !sliding {
            kinds.fill(Attention::Sliding);
        }
        if let (None, true, Some((_, node))) = (window, sliding, self.find("attention_config")) {
            let (span, hint) = (node.span.clone(), "`--set sliding_window_width=4095`");
            let message = "layers of the kind `sliding` have no width of their window";
            self.impossible(message, &span, "names them", hint);
        }
        (kinds, window)
    }

    fn attention_kinds(&mut self, layers: usize) -> Vec<Attention> {
        let all = vec![Attention::Global; layers];
        let Some((_, node)) = self.find("attention_config").cloned() else { return all };
        let Value::List(entries) = &node.value else { return all };
        if entries.is_empty() {
            return all;
        }
        let flat = entries.iter().all(|e| matches!(e.value, Value::Str(_)));
        let repeated = [Node {
            value: Value::List(vec![
                Node { value: node.value.clone(), span: node.span.clone() },
                Node { value: Value::Int(1), span: node.span.clone() },
            ]),
            span: node.span.clone(),
        }];
        let entries = if flat { &repeated[..] } else { &entries[..] };
        let mut kinds = vec![];
        for entry in entries {
            let Some(run) = self.repeated(entry, layers) else { return all };
            kinds.extend(run.0);
            if run.1 {
                break;
            }
        }
        if kinds.len() != layers {
            let message = format!("`attention_config` names {} of {layers} layers", kinds.len());
            let hint = format!("`--set attention_config=[[[\"global\"], {layers}]]`");
            self.impossible(&message, &node.span, "names these", &hint);
            return all;
        }
        kinds
    }

    /// One entry: its kinds, and whether it reaches to the last layer.
    fn repeated(&mut self, entry: &Node, layers: usize) -> Option<(Vec<Attention>, bool)> {
        let parts = match &entry.value {
            Value::List(parts) => &parts[..],
            _ => &[],
        };
        let [Node { value: Value::List(names), .. }, times] = parts else {
            let message =
                "an entry of `attention_config` is a list of kinds and a number".to_string();
            let hint = "[[[\"global\"], \"all\"]]";
            self.impossible(&message, &entry.span, "is not", hint);
            return None;
        };
        let mut kinds = vec![];
        for name in names {
            kinds.push(self.attention_kind(name)?);
        }
        let whole = kinds.len().max(1);
        let (times, to_the_end) = match &times.value {
            Value::Int(n) if *n >= 0 && *n as usize <= layers => (*n as usize, false),
            Value::Str(s) if s == "all" && layers.is_multiple_of(whole) => (layers / whole, true),
            Value::Str(s) if s == "all" => {
                let message = format!("{layers} layers are not a multiple of {whole} kinds");
                let (span, hint) = (&entry.span, "choose kinds that divide the layers");
                self.impossible(&message, span, "repeated to the end", hint);
                return None;
            }
            other => {
                let message = format!("kinds of layers repeated {} times", other.describe());
                let hint = "a number up to `num_layers`, or \"all\"";
                self.impossible(&message, &times.span, "how often", hint);
                return None;
            }
        };
        Some((kinds.iter().copied().cycle().take(kinds.len() * times).collect(), to_the_end))
    }

    fn impossible(&mut self, message: &str, span: &Span, label: &str, hint: &str) {
        self.tell(impossible_value::impossible_value(message, span, label, hint));
    }

    fn attention_kind(&mut self, name: &Node) -> Option<Attention> {
        match &name.value {
            Value::Str(s) if ["global", "flash"].contains(&s.as_str()) => Some(Attention::Global),
            Value::Str(s) if s == Attention::Sliding.name() => Some(Attention::Sliding),
            Value::Str(s) => {
                let kind = match s.as_str() {
                    "mamba" => &mamba_layers::KIND,
                    "rwkv" => &rwkv_layers::KIND,
                    "gmlp" | "amlp" => &gmlp_layers::KIND,
                    "local" | "sparse_fixed" | "sparse_variable" | "bigbird" | "bslongformer" => {
                        &sparse_attention::KIND
                    }
                    _ => &not_supported::KIND,
                };
                let d = not_supported::waits(
                    kind,
                    &format!("attention of the kind `{s}`"),
                    "layers have causal attention over all tokens before, or a window of them",
                    &name.span,
                    "use `global` or `flash`, which are one thing here, or `sliding` with `sliding_window_width`",
                );
                self.tell(d);
                None
            }
            other => {
                let message = format!("a kind of attention is {}", other.describe());
                self.tell(impossible_value::impossible_value(
                    &message, &name.span, "no name", "`global`",
                ));
                None
            }
        }
    }
}
