//! `precision`, `fp16`, `bf16` and `data_types`: the dtype of matmuls and activations, and how fp16 scales the loss.

use neoxc_base::codes::{conflict, impossible_value, not_supported, unknown_key, without_effect};
use neoxc_base::diag::Span;
use neoxc_config::{DynamicScaling, Hysteresis, LossScaling};

use crate::config::Precision;
use crate::reader::{Reader, disabled};
use crate::yaml::{Key, Node, Value};

/// Who asks for a precision, as messages say it, and where.
struct Asked {
    who: String,
    span: Span,
    for_: Precision,
}

/// The name of a precision as GPT-NeoX's `precision` has it.
fn word(p: Precision) -> &'static str {
    match p {
        Precision::F32 => "fp32",
        Precision::Bf16 => "bfloat16",
        Precision::F16 => "fp16",
    }
}

impl Reader<'_> {
    /// The pairs of an enabled dictionary, with its key.
    fn enabled(&self, name: &str) -> Option<(Key, Vec<(Key, Node)>)> {
        let (key, node) = self.find(name)?.clone();
        let Value::Map(pairs) = node.value else { return None };
        (!disabled(&pairs)).then_some((key, pairs))
    }

    /// The dtype of matmuls: by `precision`, by `bf16`, or by `fp16` and its `type`. As in GPT-NeoX these must agree.
    pub(crate) fn precision(&mut self) -> Precision {
        let mut asked: Vec<Asked> = vec![];
        if let (Some((key, _)), Some(name)) = (self.find("precision"), self.text("precision")) {
            let all = [Precision::F32, Precision::Bf16, Precision::F16];
            let named = all.into_iter().find(|p| word(*p) == name);
            let (who, span) = (format!("`precision` is {name}"), key.span.clone());
            asked.extend(named.map(|for_| Asked { who, span, for_ }));
        }
        for name in ["fp16", "bf16"] {
            let Some((key, pairs)) = self.enabled(name) else { continue };
            let for_ = match name {
                "bf16" => Precision::Bf16,
                _ => self.kind_of_fp16(&pairs),
            };
            let of = if name == "fp16" && for_ == Precision::Bf16 { " with bfloat16" } else { "" };
            asked.push(Asked { who: format!("`{name}` is enabled{of}"), span: key.span, for_ });
        }
        for pair in asked.windows(2).filter(|pair| pair[0].for_ != pair[1].for_) {
            let [first, other] = pair else { continue };
            let places = [other, first].map(|a| (a.span.clone(), format!("{} here", word(a.for_))));
            let message = format!("{}, but {}", other.who, first.who);
            let wanted = word(other.for_);
            let hint =
                format!("remove one of them; `--set precision={wanted}` agrees with the second");
            self.tell(conflict::conflict(&message, &places, &hint));
        }
        self.sums_of_gradients();
        asked.first().map_or(Precision::F32, |a| a.for_)
    }

    /// What `fp16` is with its `type`.
    fn kind_of_fp16(&mut self, pairs: &[(Key, Node)]) -> Precision {
        let Some((_, node)) = pairs.iter().find(|(k, _)| k.name == "type") else {
            return Precision::F16;
        };
        match &node.value {
            Value::Str(s) if s == "bfloat16" => return Precision::Bf16,
            Value::Str(s) if s == "fp16" => {}
            other => {
                let found = match other {
                    Value::Str(s) => format!("{s:?}"),
                    v => v.describe(),
                };
                let range = "bfloat16 or fp16";
                let d = impossible_value::out_of_range("fp16.type", &found, range, &node.span);
                self.tell(d);
            }
        }
        Precision::F16
    }

    /// How fp16 scales the loss: a fixed scale, or one of DeepSpeed's two rules, of which `zero_stage` decides.
    pub(crate) fn loss_scaling(
        &mut self,
        precision: Precision,
        zero_stage: u8,
    ) -> Option<LossScaling> {
        if precision != Precision::F16 {
            return None;
        }
        let pairs = self.enabled("fp16").map(|(_, pairs)| pairs).unwrap_or_default();
        let mut fixed = 0.0;
        let (mut power, mut consecutive, mut overflows) = (16.0, false, 2.0);
        let (mut window, mut minimum) = (1000.0, 1.0);
        for (key, node) in &pairs {
            let name = format!("fp16.{}", key.name);
            let number = match key.name.as_str() {
                "type" => continue,
                "loss_scale" => &mut fixed,
                "initial_scale_power" => &mut power,
                "loss_scale_window" => &mut window,
                "hysteresis" => &mut overflows,
                "min_loss_scale" => &mut minimum,
                "consecutive_hysteresis" => {
                    self.nested(&name, node);
                    consecutive = node.value == Value::Bool(true);
                    continue;
                }
                "enabled" | "fp16" => {
                    self.nested(&name, node);
                    continue;
                }
                other => {
                    self.other_of_fp16(other, key, node);
                    continue;
                }
            };
            *number = self.nested(&name, node).unwrap_or(*number);
        }
        if fixed > 0.0 {
            return Some(LossScaling::Fixed(fixed));
        }
        let hysteresis = Hysteresis { overflows: overflows as u64, consecutive };
        Some(LossScaling::Dynamic(DynamicScaling {
            initial: power.exp2(),
            window: window as u64,
            minimum,
            hysteresis: (zero_stage > 0).then_some(hysteresis),
        }))
    }

    /// Tells of a key of `fp16` that says nothing about the loss scale.
    fn other_of_fp16(&mut self, name: &str, key: &Key, node: &Node) {
        let off = matches!(&node.value, Value::Bool(false) | Value::Null);
        match name {
            "auto_cast" => {
                let message = "known, but without effect here: fp16.auto_cast";
                let why = "what a model reads are token ids, which nobody casts";
                self.tell(without_effect::without_effect(message, &key.span, why));
            }
            "fp16_master_weights_and_grads" if off => {}
            "fp16_master_weights_and_grads" => {
                let d = not_supported::not_supported(
                    "`fp16.fp16_master_weights_and_grads`",
                    "weights and sums of gradients are f32",
                    &key.span,
                    "remove it",
                );
                self.tell(d);
            }
            _ => {
                let what = "a key of `fp16`: enabled, type, loss_scale, initial_scale_power, \
                            loss_scale_window, hysteresis, consecutive_hysteresis, min_loss_scale";
                self.tell(unknown_key::unknown_key(name, what, &key.span, None));
            }
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
            let d = not_supported::not_supported(
                "another dtype than fp32 for `grad_accum_dtype`",
                "gradients are summed in f32",
                &given.span,
                "`--set data_types.grad_accum_dtype=\"fp32\"`",
            );
            self.tell(d);
        }
    }
}
