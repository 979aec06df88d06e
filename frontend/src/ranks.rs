//! How many ranks there are along each axis of the mesh, by GPT-NeoX's arguments.

use neoxc_base::codes::{not_supported, unknown_key};

use crate::config::{Model, Parallel, PipePartition, PipeSchedule};
use crate::reader::Reader;
use crate::yaml::Value;

/// The key and the name of the heads that ranks divide: query heads stay with the key that they share.
fn heads(m: &Model) -> (&'static str, &'static str) {
    match m.num_kv_heads {
        Some(_) => ("num_kv_heads", "key-value heads"),
        None => ("num_attention_heads", "attention heads"),
    }
}

impl Reader<'_> {
    /// Degrees of parallelism; what does not divide is a conflict with both sides shown.
    pub(crate) fn parallel(&mut self, model: Option<&Model>) -> Parallel {
        let tensor = self.whole("model_parallel_size").max(1);
        let pipe = self.whole("pipe_parallel_size").max(1);
        let context = self.whole("context_parallel_size").max(1);
        let expert = self.whole("moe_expert_parallel_size").max(1);
        let expert_tensor = self.bool("enable_expert_tensor_parallelism");
        let each = tensor * context * pipe * expert;
        let world = self.int("world_size").unwrap_or(each);
        if !world.is_multiple_of(each) {
            self.uneven_world(world, [tensor, pipe, context, expert]);
            return Parallel::default();
        }
        let sequence_parallel = self.bool("sequence_parallel");
        if let Some(m) = model {
            self.stages_of_layers(m, pipe);
            self.shards_of_sequence(m, tensor, context, sequence_parallel);
        }
        let (schedule, chunks) = self.schedule(pipe, model);
        let partition = self.partition(pipe, chunks, model);
        if let Some(m) = model {
            self.tensor_shards(m, tensor);
            self.context_shards(m, tensor, context);
            self.expert_shards(m, expert);
        }
        Parallel {
            pipe,
            schedule,
            chunks,
            partition,
            data: world / each,
            expert,
            expert_tensor,
            context,
            tensor,
            sequence_parallel,
            zero_stage: self.zero_stage(),
        }
    }

    /// Names the degree that `world` ranks are not a multiple of.
    fn uneven_world(&mut self, world: usize, [tensor, pipe, context, expert]: [usize; 4]) {
        let hint = "world_size = pipe_parallel_size × context_parallel_size × model_parallel_size \
                    × data-parallel size, which moe_expert_parallel_size divides";
        let (key, what) = match world.is_multiple_of(tensor) {
            false => ("model_parallel_size", format!("{tensor} tensor ranks")),
            true if world.is_multiple_of(tensor * pipe * context) => {
                let others = tensor * pipe * context;
                let what = format!("{expert} expert ranks × {others} others");
                ("moe_expert_parallel_size", what)
            }
            true if world.is_multiple_of(tensor * pipe) => {
                let others = tensor * pipe;
                ("context_parallel_size", format!("{context} context ranks × {others} others"))
            }
            true => ("pipe_parallel_size", format!("{pipe} stages × {tensor} tensor ranks")),
        };
        let message = format!("{world} ranks are not a multiple of {what}");
        self.both(message, "world_size", key, hint);
    }

    /// Every stage of a pipeline has a period of layers, and recomputes one at a time.
    fn stages_of_layers(&mut self, m: &Model, pipe: usize) {
        let period = m.period();
        let periods = m.num_layers / period;
        if m.num_layers < pipe {
            let message = format!("{pipe} stages cannot divide {} layers", m.num_layers);
            let hint = "every stage has at least one layer";
            self.both(message, "pipe_parallel_size", "num_layers", hint);
        } else if periods < pipe {
            let message =
                format!("{pipe} stages cannot divide {periods} periods of {period} layers each");
            let hint = "every stage has at least one period of layer kinds";
            self.both(message, "pipe_parallel_size", "moe_expert_interval", hint);
        }
        if pipe > 1
            && m.checkpoint > Some(period)
            && let Some((_, node)) = self.find("checkpoint_num_layers").cloned()
        {
            let n = m.checkpoint.unwrap_or(1);
            let d = not_supported::not_supported(
                &format!("a pipeline with groups of {n} recomputed layers"),
                "its stages make each layer again by itself",
                &node.span,
                "`--set checkpoint_num_layers=1`",
            );
            self.tell(d);
        }
    }

    /// `sequence_parallel` has tensor ranks divide what each context rank has of a sequence.
    fn shards_of_sequence(&mut self, m: &Model, tensor: usize, context: usize, parallel: bool) {
        let finer = parallel && m.seq_length.is_multiple_of(context);
        if finer && !m.seq_length.is_multiple_of(context * tensor) {
            let which = if context > 1 {
                format!("{tensor} tensor × {context} context ranks")
            } else {
                format!("{tensor} tensor ranks")
            };
            let message = format!("{which} do not divide {} tokens", m.seq_length);
            let hint = "or `--set sequence_parallel=false`";
            self.both(message, "model_parallel_size", "seq_length", hint);
        }
    }

    /// Tensor ranks divide heads and the MLP; they need not divide the vocabulary.
    fn tensor_shards(&mut self, m: &Model, tensor: usize) {
        let (heads, whose) = heads(m);
        let divided = m.moe.filter(|_| self.bool("enable_expert_tensor_parallelism"));
        let expert = divided.and_then(|e| e.ffn);
        let expert = expert.map(|n| ("moe_intermediate_size", n, "columns of an expert"));
        for (key, size, what) in [
            (heads, m.key_heads(), whose),
            ("intermediate_size", m.intermediate_size, "columns of the MLP"),
        ]
        .into_iter()
        .chain(expert)
        {
            if !size.is_multiple_of(tensor) {
                let message = format!("{tensor} tensor ranks do not divide {size} {what}");
                self.both(message, "model_parallel_size", key, "choose a divisor");
            }
        }
        // Rows that are given stay as they are, so that parameters need not depend on the layout.
        if !m.padded_vocab_size.is_multiple_of(tensor) {
            let message = format!(
                "{tensor} tensor ranks do not divide a vocabulary of {}: each has all of embedding and head",
                m.padded_vocab_size
            );
            let labels =
                [("model_parallel_size", "these ranks"), ("padded_vocab_size", "not a multiple")];
            let hint =
                "pad the vocabulary to a multiple of the ranks; the embedding then has more rows";
            self.adjusted(message, &labels, hint);
        }
    }

    /// Context ranks divide the sequence, and in attention the heads that a tensor rank has.
    fn context_shards(&mut self, m: &Model, tensor: usize, context: usize) {
        if !m.seq_length.is_multiple_of(context) {
            let message = format!("{context} context ranks do not divide {} tokens", m.seq_length);
            self.both(message, "context_parallel_size", "seq_length", "choose a divisor");
        }
        let divide = |ranks| m.key_heads().is_multiple_of(ranks);
        if divide(tensor) && !divide(tensor * context) {
            let n = m.key_heads() / tensor;
            let (key, what) = heads(m);
            let whose = if tensor > 1 { " of a tensor rank" } else { "" };
            let message = format!("{context} context ranks do not divide {n} {what}{whose}");
            let hint = "they divide the heads in attention: choose a divisor";
            self.both(message, "context_parallel_size", key, hint);
        }
    }

    /// Expert ranks divide the experts.
    fn expert_shards(&mut self, m: &Model, expert: usize) {
        let (message, key, hint) = match m.moe {
            Some(moe) if !moe.experts.is_multiple_of(expert) => (
                format!("{expert} expert ranks do not divide {} experts", moe.experts),
                "moe_num_experts",
                "choose a divisor",
            ),
            None if expert > 1 => (
                format!("{expert} expert ranks have no experts to divide"),
                "num_layers",
                "`--set moe_expert_parallel_size=1`, or `--set moe_num_experts=…`",
            ),
            _ => return,
        };
        self.both(message, "moe_expert_parallel_size", key, hint);
    }

    /// The order of micro-batches, and the chunks of layers that an interleaved one has on each stage.
    fn schedule(&mut self, pipe: usize, model: Option<&Model>) -> (PipeSchedule, usize) {
        let schedule = PipeSchedule::parse(&self.word("pipe_schedule")).unwrap_or_default();
        let given = self.int("virtual_pipeline_chunks");
        if schedule != PipeSchedule::Interleaved {
            if given > Some(1) {
                let message = "chunks of layers are for an interleaved schedule".to_string();
                let hint = "`--set pipe_schedule=interleaved`";
                self.both(message, "virtual_pipeline_chunks", "pipe_schedule", hint);
            }
            return (schedule, 1);
        }
        let chunks = given.unwrap_or(2);
        if pipe == 1 {
            return (schedule, 1);
        }
        if let Some(m) = model.filter(|m| !m.num_layers.is_multiple_of(pipe * chunks)) {
            let n = m.num_layers;
            let message = format!("{pipe} stages × {chunks} chunks do not divide {n} layers");
            let hint = "num_layers must be a multiple of pipe_parallel_size × \
                        virtual_pipeline_chunks (2 if it is not given)";
            self.both(message, "virtual_pipeline_chunks", "num_layers", hint);
        }
        if let Some(m) = model
            && m.num_layers.is_multiple_of(pipe * chunks)
            && !m.num_layers.is_multiple_of(pipe * chunks * m.period())
        {
            let message = format!(
                "a chunk has {} layers, not a multiple of the {} of a period of layer kinds",
                m.num_layers / pipe / chunks,
                m.period()
            );
            let hint = "choose chunks of whole periods of layers";
            self.both(message, "virtual_pipeline_chunks", "moe_expert_interval", hint);
        }
        (schedule, chunks)
    }

    /// How stages divide the layers.
    fn partition(&mut self, pipe: usize, chunks: usize, model: Option<&Model>) -> PipePartition {
        let method = self.word("pipe_partition_method");
        let partition = PipePartition::parse(&method).unwrap_or_default();
        if chunks > 1 && partition != PipePartition::Layers {
            let message = "interleaved stages have equal chunks of layers".to_string();
            let hint = "`--set pipe_partition_method=type:transformer|mlp`";
            self.both(message, "pipe_partition_method", "pipe_schedule", hint);
        }
        // Two modules come in front of the layers, three behind them.
        if let Some(m) = model.filter(|_| partition == PipePartition::Uniform && pipe > 1) {
            let n = m.num_layers / m.period();
            let all = n + 5;
            if all / pipe + usize::from(all % pipe > 0) <= 2 || all / pipe <= 3 {
                let message =
                    format!("{pipe} stages of {all} modules leave one without any of {n} layers");
                let hint = "`--set pipe_partition_method=balanced`, or fewer stages";
                self.both(message, "pipe_parallel_size", "num_layers", hint);
            }
        }
        partition
    }

    /// An interleaved schedule takes micro-batches through a chunk in groups of as many as there are stages.
    pub(crate) fn groups_of_micro_batches(&mut self, p: Parallel, accum: usize) {
        let interleaved = p.schedule == PipeSchedule::Interleaved && p.pipe > 1;
        if interleaved && !accum.is_multiple_of(p.pipe) {
            let message = format!(
                "an interleaved schedule of {} stages wants a multiple of {} micro-batches, not {accum}",
                p.pipe, p.pipe
            );
            let hint = "`gradient_accumulation_steps` a multiple of `pipe_parallel_size`, or another \
                        `pipe_schedule`";
            self.both(message, "gradient_accumulation_steps", "pipe_parallel_size", hint);
        }
    }

    /// `train_batch_size` must be what the other numbers make, and leave nothing over where it makes them.
    pub(crate) fn batch_arithmetic(&mut self, p: Parallel) {
        let given = |n: &str| self.given(n).filter(|x| *x > 0.0);
        let (global, steps) = (given("train_batch_size"), given("gradient_accumulation_steps"));
        let name = match given("train_micro_batch_size_per_gpu") {
            Some(_) => "train_micro_batch_size_per_gpu",
            None => "batch_size",
        };
        let (Some(global), micro, data) = (global, given(name), p.copies() as f64) else { return };
        let fits = match (micro, steps) {
            (Some(m), Some(s)) => m * s * data == global,
            (Some(m), None) => global % (m * data) == 0.0,
            (None, s) => global % (s.unwrap_or(1.0) * data) == 0.0,
        };
        if fits {
            return;
        }
        let ranks = match p.copies() {
            1 => "one rank".to_string(),
            n => format!("{n} data-parallel ranks"),
        };
        let parts = [(micro, "sequences"), (steps, "accumulation steps")];
        let parts: Vec<String> =
            parts.iter().filter_map(|(n, what)| Some(format!("{} {what}", (*n)?))).collect();
        let message = match &parts[..] {
            [] => format!("{global} sequences cannot be divided among {ranks}"),
            parts => format!("{global} sequences are not {} on {ranks}", parts.join(" × ")),
        };
        let other = match (micro, steps) {
            (Some(_), _) => name,
            (None, Some(_)) => "gradient_accumulation_steps",
            (None, None) => "world_size",
        };
        let hint = "train_batch_size = micro-batch × accumulation steps × data-parallel size";
        self.both(message, "train_batch_size", other, hint);
    }

    /// The stage of `zero_optimization`; its other keys tune what is planned here anyway.
    fn zero_stage(&mut self) -> u8 {
        let Some((_, node)) = self.find("zero_optimization").cloned() else { return 0 };
        let Value::Map(pairs) = node.value else { return 0 };
        let mut stage = 0;
        for (key, value) in pairs {
            let off = matches!(&value.value, Value::Bool(false) | Value::Null)
                || matches!(&value.value, Value::Map(m) if m.is_empty());
            let name = key.name.as_str();
            match name {
                "stage" => {
                    let given = self.nested("zero_optimization.stage", &value);
                    stage = given.unwrap_or(0.0) as u8;
                }
                _ if TUNING.contains(&name) || off => {}
                _ if OFFLOAD.contains(&name) => {
                    let d = not_supported::not_supported(
                        &format!("`zero_optimization.{name}`"),
                        "state stays on the device",
                        &key.span,
                        "remove it: more data ranks, or a higher stage, take less memory each",
                    );
                    self.tell(d);
                }
                _ => {
                    let name = format!("zero_optimization.{name}");
                    let what = "a setting of ZeRO";
                    self.tell(unknown_key::unknown_key(&name, what, &key.span, None));
                }
            }
        }
        stage
    }
}

/// Settings of ZeRO about buffers and overlap: planned here in any case.
const TUNING: [&str; 17] = [
    "allgather_partitions",
    "allgather_bucket_size",
    "overlap_comm",
    "reduce_scatter",
    "reduce_bucket_size",
    "contiguous_gradients",
    "load_from_fp32_weights",
    "elastic_checkpoint",
    "round_robin_gradients",
    "sub_group_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_gather_16bit_weights_on_model_save",
    "stage3_gather_fp16_weights_on_model_save",
    "ignore_unused_parameters",
];

/// Settings that move state off the device.
const OFFLOAD: [&str; 4] =
    ["cpu_offload", "cpu_offload_params", "offload_param", "offload_optimizer"];
