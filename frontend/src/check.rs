//! Merged keys → [`Config`]: every key known, every value of its type and in its range, every rule
//! of GPT-NeoX applied. All problems are collected before anything stops.

use std::collections::BTreeMap;

use neoxc_base::codes::{impossible_value, mamba_layers, missing_key, rwkv_layers, wrong_type};
use neoxc_base::diag::Diagnostic;
use neoxc_config::{LEAST_FACTOR, MOST_SAMPLES, shares};

use crate::config::{Config, Model, Parallel, Precision, Run};
use crate::layer::start_of;
use crate::lints;
use crate::merge::Merged;
use crate::reader::{Reader, number};
use crate::yaml::Value;

/// Parameters that a model may have: some trillions, whose numbers of bytes still can be counted.
const MOST_PARAMETERS: u128 = 1 << 42;

/// Checks everything; `None` where a value is missing that nothing can stand for.
pub fn check(keys: &Merged, diagnostics: &mut Vec<Diagnostic>) -> Option<Config> {
    let mut r = Reader::new(keys, diagnostics);
    r.every_key();
    r.parts();
    let model = r.model();
    let optimizer = r.optimizer();
    let parallel = r.parallel(model.as_ref());
    let run = r.run(parallel, model.as_ref().map_or(Precision::F32, |m| m.precision));
    r.batch_arithmetic(parallel);
    if let Some(run) = &run {
        r.groups_of_micro_batches(parallel, run.grad_accum);
    }
    let places = keys
        .iter()
        .map(|(k, _)| (k.name.clone(), (k.span.file.to_string(), k.span.line, k.span.column)))
        .collect::<BTreeMap<_, _>>();
    let config = Config { model: model?, optimizer: optimizer?, run: run?, parallel, places };
    lints::run(&config, &mut r);
    Some(config)
}

impl Reader<'_> {
    fn model(&mut self) -> Option<Model> {
        let layers = self.required("num_layers");
        let hidden = self.required("hidden_size");
        let heads = self.required("num_attention_heads");
        let seq = self.required("seq_length");
        let positions = self.int("max_position_embeddings");
        let (norm, eps) = self.norms();
        let precision = self.precision();
        let pos_emb = self.word("pos_emb");
        let pct = self.float("rotary_pct");
        let base = self.float("rotary_emb_base");
        let rope_scaling = self.rope_scaling(&pos_emb, base);
        let offset = self.added_positions(&pos_emb);
        let (hidden_dropout, attention_dropout) =
            (self.float("hidden_dropout"), self.float("attention_dropout"));
        let std = self.float("init_method_std");
        let (vocab, padded) = self.vocabulary();
        let (init, output) = (self.word("init_method"), self.word("output_layer_init_method"));
        let (layers, hidden, heads, seq) = (layers?, hidden?, heads?, seq?);
        let (attention, sliding_window) = self.attention(layers);
        let sliding_rotary_emb_base = self.base_of_windows(&pos_emb, &attention);
        // Layers of another kind, which was told, need not divide their width among heads.
        let others = [mamba_layers::KIND.code, rwkv_layers::KIND.code];
        if self.diagnostics.iter().any(|d| others.contains(&d.kind.code)) {
            return None;
        }
        let head = self.head_dim(hidden, heads)?;
        let rotary = self.rotary_dims(&pos_emb, head, pct);
        self.positions_of_tokens(positions, seq);
        let moe = self.moe(layers);
        let num_kv_heads = self.key_heads(heads);
        let (activation, intermediate_size) = self.mlp(hidden, moe.is_some());
        let experts = moe.as_ref().map_or(1, |m| m.experts);
        let widest = moe.and_then(|m| m.ffn).unwrap_or(0).max(intermediate_size);
        self.counted_parameters(layers, hidden, widest, experts);
        let padded = padded?;
        let mut model = Model {
            model_family: self.text("model_family"),
            num_layers: layers,
            hidden_size: hidden,
            num_attention_heads: heads,
            num_kv_heads,
            head_dim: self.int("head_dim"),
            qk_norm: self.qk_norm(norm),
            query_pre_attn_scalar: self.int("query_pre_attn_scalar"),
            intermediate_size,
            seq_length: seq,
            max_position_embeddings: positions.unwrap_or(seq + offset),
            vocab_size: vocab,
            padded_vocab_size: padded,
            pos_emb,
            rotary_dims: rotary,
            rotary_emb_base: base,
            rope_scaling,
            sliding_rotary_emb_base,
            opt_pos_emb_offset: offset,
            embedding_scale: self.float("embedding_scale"),
            norm,
            layernorm_epsilon: eps,
            zero_centred_norms: self.zero_centred(norm),
            norm_place: self.norm_place(),
            gpt_j_residual: self.bool("gpt_j_residual"),
            gpt_j_tied: self.bool("gpt_j_residual") && self.bool("gpt_j_tied"),
            activation,
            gelu_tanh: self.bool("bias_gelu_fusion"),
            use_bias_in_norms: self.bool("use_bias_in_norms"),
            use_bias_in_attn_linear: self.bool("use_bias_in_attn_linear"),
            use_bias_in_attn_dense: self.maybe("use_bias_in_attn_dense"),
            use_bias_in_mlp: self.bool("use_bias_in_mlp"),
            moe,
            attention,
            sliding_window,
            precision,
            tied: !self.bool("no_weight_tying"),
            init_std: start_of(&init, std, layers, hidden),
            output_init_std: start_of(&output, std, layers, hidden),
            hidden_dropout,
            attention_dropout,
            checkpoint: None,
        };
        if self.bool("checkpoint_activations") {
            model.checkpoint = Some(self.checkpoint_group(layers, model.period()));
        }
        Some(model)
    }

    /// Dims of a head, of `head`, that are rotated.
    fn rotary_dims(&mut self, pos_emb: &str, head: usize, pct: f64) -> usize {
        let rotary = (head as f64 * pct) as usize;
        if pos_emb == "rotary" && (rotary == 0 || !rotary.is_multiple_of(2)) {
            let message =
                format!("{rotary} rotary dims per head: they must be even and at least 2");
            let hint = "head size × rotary_pct must be even";
            self.both(message, "rotary_pct", "num_attention_heads", hint);
        }
        rotary
    }

    /// Every token of a sequence has a position; GPT-NeoX asks for it whatever `pos_emb` is.
    fn positions_of_tokens(&mut self, positions: Option<usize>, seq: usize) {
        if positions.is_some_and(|p| p < seq) {
            let message = format!("{seq} tokens do not fit {} positions", positions.unwrap_or(0));
            let hint = "raise max_position_embeddings";
            self.both(message, "seq_length", "max_position_embeddings", hint);
        }
    }

    /// Layers recomputed together: groups have one size, so it must divide the number of layers, and be
    /// whole periods of layers of several kinds.
    fn checkpoint_group(&mut self, layers: usize, period: usize) -> usize {
        let wanted = self.whole("checkpoint_num_layers");
        let periods = layers / period;
        let group = (1..=(wanted / period).min(periods)).rev().find(|k| periods.is_multiple_of(*k));
        let group = group.unwrap_or(1) * period;
        if group != wanted {
            let message = format!("{layers} layers are recomputed in groups of {group}");
            let labels =
                [("checkpoint_num_layers", "does not divide"), ("num_layers", "this number")];
            self.adjusted(message, &labels, "choose a divisor of `num_layers`");
        }
        group
    }

    fn run(&mut self, parallel: Parallel, precision: Precision) -> Option<Run> {
        let copies = parallel.copies();
        let train_iters = self.required("train_iters");
        let micro = self.int("train_micro_batch_size_per_gpu");
        let micro = micro.or_else(|| self.int("batch_size"));
        let accum = self.int("gradient_accumulation_steps");
        let global = self.int("train_batch_size");
        let accum = match (global, micro, accum) {
            (Some(g), Some(m), None) => (g / m / copies).max(1),
            (_, _, a) => a.unwrap_or(1),
        };
        let micro = micro.or(global.map(|g| (g / accum / copies).max(1)));
        let Some(micro) = micro else {
            // A size that is given and cannot be has been told already.
            let of = ["train_micro_batch_size_per_gpu", "batch_size", "train_batch_size"];
            if self.is_absent(of[0]) || of.iter().any(|key| self.place(key).is_some()) {
                return None;
            }
            let hint = "`--set train_micro_batch_size_per_gpu=4`";
            self.tell(missing_key::missing_key("the micro-batch size", hint));
            return None;
        };
        self.counted_samples(train_iters, micro as u128 * accum as u128 * copies as u128);
        let saves = self.extra_saves();
        let data = self.data();
        let log = self.word("checkpoint_scale") == "log";
        let factor = self.checkpoint_factor(log);
        let (iteration, finetune, no_load_optim) = self.start();
        Some(Run {
            micro_batch: micro,
            grad_accum: accum,
            train_iters: train_iters? as u64,
            seed: self.whole("seed") as u32,
            eval_interval: self.whole("eval_interval") as u64,
            eval_iters: self.whole("eval_iters") as u64,
            log_interval: self.whole("log_interval") as u64,
            save: self.text("save"),
            load: self.text("load"),
            iteration,
            finetune,
            no_load_optim,
            exit_interval: self.int("exit_interval").map(|n| n as u64),
            checkpoint_factor: factor,
            checkpoint_log: log,
            extra_save_iters: saves,
            keep_last: self.int("keep_last_n_checkpoints"),
            data_path: self.text("data_path"),
            train_data: data.train,
            valid_data: data.valid,
            document_exponent: data.document_exponent,
            packing: data.packing,
            allow_chopped: data.allow_chopped,
            split: self.split(),
            tokenizer_type: self.word("tokenizer_type"),
            vocab_file: self.beside("vocab_file"),
            merge_file: self.beside("merge_file"),
            eod_mask_loss: self.bool("eod_mask_loss"),
            loss_scaling: self.loss_scaling(precision, parallel.zero_stage),
        })
    }

    /// Steps between checkpoints, or the factor by which they grow; GPT-NeoX asserts the same of both.
    fn checkpoint_factor(&mut self, log: bool) -> Option<f64> {
        const NAME: &str = "checkpoint_factor";
        let (_, node) = self.find(NAME)?;
        let Some(factor) = number(&node.value) else {
            let (found, hint) = (node.value.describe(), "write it without quotes");
            self.tell(wrong_type::wrong_type(NAME, &found, "a number", &node.span, hint));
            return None;
        };
        let (fits, want) = match log {
            // One that hardly grows would save at every step for ever.
            true => (
                (LEAST_FACTOR..=1e12).contains(&factor),
                format!("from {LEAST_FACTOR} to 1e12 where checkpoint_scale is log"),
            ),
            false => (
                (1.0..=1e12).contains(&factor) && factor.fract() == 0.0,
                "a whole number from 1 to 1e12".to_string(),
            ),
        };
        if !fits {
            let found = factor.to_string();
            self.tell(impossible_value::out_of_range(NAME, &found, &want, &node.span));
        }
        Some(factor)
    }

    /// The matrices of all layers are of a size that some machine could have.
    fn counted_parameters(&mut self, layers: usize, hidden: usize, ffn: usize, experts: usize) {
        // At least: attention has a matrix for queries and one for results, an MLP two.
        let [layers, hidden, ffn, experts] = [layers, hidden, ffn, experts].map(|n| n as u128);
        let all = layers * hidden * 2 * (hidden + ffn * experts);
        if all > MOST_PARAMETERS {
            let message = format!(
                "the layers have {all} parameters or more, and {MOST_PARAMETERS} is the most"
            );
            self.both(message, "num_layers", "hidden_size", "a smaller model");
        }
    }

    /// The samples of all steps, of which one has `batch`, and of all evaluations can be numbered.
    fn counted_samples(&mut self, train_iters: Option<usize>, batch: u128) {
        let iters = train_iters.unwrap_or(0) as u128;
        let rounds = iters / self.whole("eval_interval") as u128 + 1;
        let all = [
            ("train_iters", iters * batch, "steps take"),
            ("eval_iters", rounds * self.whole("eval_iters") as u128 * batch, "evaluations take"),
        ];
        for (name, samples, what) in all {
            if samples > u128::from(MOST_SAMPLES) {
                let message =
                    format!("all {what} {samples} samples, and {MOST_SAMPLES} can be numbered");
                let other = "train_micro_batch_size_per_gpu";
                self.both(message, name, other, "fewer steps, or a smaller batch");
            }
        }
    }

    /// How one data set is divided.
    fn split(&mut self) -> String {
        let split = self.word("split");
        if let Some((_, node)) = self.find("split").cloned()
            && shares(&split).is_none()
        {
            let want =
                "up to three numbers such as \"969, 30, 1\", none of them negative and not all 0";
            let found = format!("{split:?}");
            self.tell(impossible_value::out_of_range("split", &found, want, &node.span));
        }
        split
    }

    /// Further steps to save at.
    fn extra_saves(&mut self) -> Vec<u64> {
        let Some((_, node)) = self.find("extra_save_iters") else { return vec![] };
        let Value::List(list) = &node.value else { return vec![] };
        let mut steps = vec![];
        for n in list {
            match number(&n.value).filter(|x| (0.0..=1e12).contains(x) && x.fract() == 0.0) {
                Some(step) => steps.push(step as u64),
                None => {
                    let message = format!("a step to save at is {}", n.value.describe());
                    let hint = "steps are whole numbers from 0 to 1e12";
                    let d = impossible_value::impossible_value(&message, &n.span, "no step", hint);
                    self.tell(d);
                }
            }
        }
        steps
    }

    /// Which of the checkpoints that `load` names a run goes on from, and whether it takes the weights only, or all
    /// but the optimizer's state.
    fn start(&mut self) -> (Option<u64>, bool, bool) {
        let iteration = self.int("iteration").map(|n| n as u64);
        let (finetune, no_load_optim) = (self.bool("finetune"), self.bool("no_load_optim"));
        if self.find("load").is_none() {
            let asked = [
                ("iteration", iteration.is_some()),
                ("finetune", finetune),
                ("no_load_optim", no_load_optim),
            ];
            for (key, asks) in asked {
                if asks {
                    let message =
                        format!("`{key}` is about what `load` names, and it names nothing");
                    self.both(message, key, "load", "add `load`, or remove it");
                }
            }
        }
        (iteration, finetune, no_load_optim)
    }
}
