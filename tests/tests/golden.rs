//! Compiled kernels against goldens from Hugging Face transformers, GPT-NeoX's and Llama's (and, for positions that it does not
//! have, a plain f64 model): logits, losses, every gradient, training trajectories.
//! `tests/golden/README.md` describes the files.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use neoxc_driver::hugging_face::{Weight, weights};
use neoxc_driver::{Options, Phase, compile, phases};
use neoxc_frontend::Config;
use neoxc_ir::target::Target;
use neoxc_plan::{Plan, Port, SegmentKind, Values};
use neoxc_runtime::device::{CpuDevice, Device};
use neoxc_runtime::train::lr::learning_rate;
use neoxc_runtime::train::settings;
use serde_json::Value;

struct Case {
    json: Value,
    tensors: HashMap<String, Vec<u8>>,
}

impl Case {
    /// The tensor `kind.NAME` of a logical tensor, if need be put together from those that Hugging Face has.
    fn whole(&self, kind: &str, name: &str, weights: &[Weight]) -> Vec<u8> {
        if let Some(bytes) = self.tensors.get(&format!("{kind}.{name}")) {
            return bytes.clone();
        }
        let w = weights.iter().find(|w| w.name == name).unwrap();
        let mut whole = vec![0; w.elements() * 4];
        for piece in &w.pieces {
            w.join(&mut whole, piece, &self.tensors[&format!("{kind}.{}", piece.name)], 4);
        }
        whole
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn case(name: &str) -> Case {
    let text = std::fs::read(folder().join(format!("{name}.json"))).unwrap();
    let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
    let st = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = st.tensors().into_iter().map(|(n, v)| (n, v.data().to_vec())).collect();
    Case { json: serde_json::from_slice(&text).unwrap(), tensors }
}

/// A JSON value as YAML 1.1 reads it: floats need a dot.
fn yaml(v: &Value) -> String {
    match v {
        Value::Number(n) if n.is_f64() => format!("{:.20}", n.as_f64().unwrap()),
        Value::Object(o) => {
            let pairs: Vec<String> = o.iter().map(|(k, v)| format!("{k}: {}", yaml(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Array(a) => format!("[{}]", a.iter().map(yaml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn config(case: &Case) -> Config {
    let neox = case.json["neox"].as_object().unwrap();
    let mut sets: Vec<String> = neox.iter().map(|(k, v)| format!("{k}={}", yaml(v))).collect();
    if !neox.contains_key("optimizer") {
        sets.push("optimizer={type: Adam, params: {lr: 0.001}}".into());
    }
    if !neox.contains_key("train_iters") {
        sets.push("train_iters=1".into());
    }
    let loaded = neoxc_frontend::load(&[], None, &sets);
    loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

fn plan(case: &Case) -> Plan {
    let options = Options {
        targets: vec![Target::X86Native],
        cache: Some(common::kernels()),
        threads: 2,
        machine: None,
        overlap: true,
    };
    compile(&config(case), &options).unwrap().plan
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// A plan on the CPU with its ports by name.
struct Machine<'p> {
    plan: &'p Plan,
    device: CpuDevice,
}

/// What fp16's loss is multiplied by, here and in `fp16.json`.
const LOSS_SCALE: f64 = 1024.0;

impl<'p> Machine<'p> {
    fn new(plan: &'p Plan, value: &dyn Fn(&str) -> Vec<u8>) -> Self {
        let mut device = CpuDevice::new(plan, 2).unwrap();
        for p in &plan.tables.parameters {
            for (layer, name) in p.names().into_iter().enumerate() {
                let bytes = value(&name);
                assert_eq!(bytes.len() as u64, p.elements() * 4, "{name}");
                let offset = p.weights.offset(0).unwrap() + (layer * bytes.len()) as u64;
                device.write(plan.segment_of(SegmentKind::Weights).unwrap(), offset, &bytes);
            }
        }
        Self { plan, device }
    }

    fn port(&self, program: &str, name: &str) -> Port {
        let p = self.plan.program(program).unwrap();
        p.inputs.iter().chain(&p.outputs).find(|p| p.name == name).unwrap().clone()
    }

    fn put(&mut self, program: &str, name: &str, bytes: &[u8]) {
        let port = self.port(program, name);
        assert_eq!(port.elements() * 4, bytes.len() as u64, "{name}");
        self.device.write(self.plan.segment(&port.segment).unwrap(), port.offset, bytes);
    }

    fn get(&self, program: &str, name: &str) -> Vec<f32> {
        let port = self.port(program, name);
        let mut bytes = vec![0; port.elements() as usize * 4];
        self.device.read(self.plan.segment(&port.segment).unwrap(), port.offset, &mut bytes);
        floats(&bytes)
    }

    /// Step `step`, which may have the numbers of another one.
    fn step(&mut self, tokens: &[u8], labels: &[u8], mask: &[u8], lr: f64, step: u64) {
        for (name, bytes) in [("tokens", tokens), ("labels", labels), ("mask", mask)] {
            self.put("train_step", name, bytes);
        }
        for (name, formula) in &self.plan.tables.scalars {
            let given = neoxc_plan::Given { step, lr, loss_scale: LOSS_SCALE };
            self.put("train_step", name, &(formula.value(given) as f32).to_le_bytes());
        }
        self.device.run("train_step").unwrap();
    }

    /// Gradient (or parameter) tensors by logical name.
    fn tensors(&self, values: &Values) -> Vec<(String, Vec<f32>)> {
        let at = self.plan.segment(&values.segment()).unwrap();
        let mut out = vec![];
        for p in &self.plan.tables.parameters {
            let len = p.elements() as usize * 4;
            for (layer, name) in p.names().into_iter().enumerate() {
                let offset = p.held(values).unwrap().offset(0).unwrap() + (layer * len) as u64;
                out.push((name, floats(self.device.bytes(at, offset, len))));
            }
        }
        out
    }

    /// Logits of one row at one position.
    fn logits(&mut self, tokens: &[u8], position: usize) -> Vec<f32> {
        self.put("logits", "tokens", tokens);
        self.put("logits", "last", &(position as i32).to_le_bytes());
        self.device.run("logits").unwrap();
        self.get("logits", "logits")
    }

    /// Logits of one row at every position, token by token.
    fn decoded(&mut self, tokens: &[u8]) -> Vec<f32> {
        let mut logits = vec![];
        // The layers of a period keep theirs apart.
        let outputs = self.plan.program("decode").unwrap().outputs.iter().map(|p| p.name.as_str());
        let new = outputs.filter_map(|new| Some((new.to_string(), new.strip_prefix("new_")?)));
        let caches: Vec<_> = new.map(|(new, kept)| (new, kept.to_string())).collect();
        assert!(!caches.is_empty());
        for (place, token) in tokens.chunks(4).enumerate() {
            self.put("decode", "tokens", token);
            self.put("decode", "count", &(place as i32).to_le_bytes());
            self.device.run("decode").unwrap();
            logits.extend(self.get("decode", "logits"));
            for (new, kept) in &caches {
                let (new, kept) = (self.port("decode", new), self.port("decode", kept));
                let [.., places, row] = kept.shape[..] else { panic!("{kept:?}") };
                let row = row * kept.width();
                let at = |port: &Port| self.plan.segment(&port.segment).unwrap();
                let mut rows = vec![0; (new.elements() * new.width()) as usize];
                self.device.read(at(&new), new.offset, &mut rows);
                for (n, bytes) in rows.chunks(row as usize).enumerate() {
                    let to = kept.offset + (n as u64 * places + place as u64) * row;
                    self.device.write(at(&kept), to, bytes);
                }
            }
        }
        logits
    }
}

/// Largest difference over the largest magnitude.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
    let off = got.iter().zip(want).map(|(a, b)| (a - b).abs());
    off.fold(0f32, |m, d| if d.is_nan() { f32::NAN } else { m.max(d) }) / size
}

/// Tolerance of logits, losses and gradients.
const TOLERANCE: f32 = 2e-5;

fn check_step(name: &str) {
    let c = case(name);
    check_step_of(name, &c, &plan(&c));
}

fn check_step_of(name: &str, c: &Case, plan: &Plan) {
    let weights = weights(&config(c));
    let mut m = Machine::new(plan, &|n| c.whole("param", n, &weights));
    let (tokens, labels, mask) = (&c.tensors["tokens"], &c.tensors["labels"], &c.tensors["mask"]);
    let logits = floats(&c.tensors["logits"]);
    let vocab = plan.tables.run["padded_vocab_size"].as_u64().unwrap() as usize;
    let seq = plan.tables.run["seq_length"].as_u64().unwrap() as usize;
    for (row, ids) in tokens.chunks(seq * 4).enumerate() {
        for position in 0..seq {
            let at = (row * seq + position) * vocab;
            let got = m.logits(ids, position);
            let d = distance(&got, &logits[at..at + vocab]);
            assert!(d < TOLERANCE, "{name}: logits of row {row} at {position} are off by {d}");
        }
    }
    if plan.program("decode").is_some() {
        let all: Vec<f32> = tokens.chunks(seq * 4).flat_map(|ids| m.decoded(ids)).collect();
        let d = distance(&all, &logits);
        assert!(d < TOLERANCE, "{name}: logits token by token are off by {d}");
    }
    m.step(tokens, labels, mask, 0.0, 1);
    let d = distance(&m.get("train_step", "loss"), &floats(&c.tensors["loss"]));
    assert!(d < TOLERANCE, "{name}: the loss is off by {d}");
    let mut worst = (0f32, String::new());
    for (n, got) in m.tensors(&Values::Gradient) {
        let d = distance(&got, &floats(&c.whole("grad", &n, &weights)));
        assert!(d < TOLERANCE, "{name}: the gradient of {n} is off by {d}");
        if d > worst.0 {
            worst = (d, n);
        }
    }
    println!("{name}: largest gradient error {:.1e} ({})", worst.0, worst.1);
}

#[test]
fn logits_losses_and_every_gradient() {
    for name in [
        "parallel_erf",
        "sequential_tanh",
        "parallel_tanh_tied",
        "sequential_erf_tied",
        "wide_head",
        "loss_mask",
        "accumulate",
        "accumulate_one_masked",
        "learned_positions",
        "no_positions",
        "norms_without_bias",
        "scalenorm_sinusoidal",
        "zero_centred_offset",
        "norms_without_weights",
    ] {
        check_step(name);
    }
}

/// Llama: RMS norms, gates, query heads that share a key, biases or none, one table for embedding and head.
#[test]
fn llama_models() {
    for name in ["llama_grouped", "llama_one_key_head_tied", "llama_all_heads_biases"] {
        check_step(name);
    }
}

/// The families beside GPT-NeoX and Llama, each with one step and with twenty steps of training.
#[test]
fn families_of_models() {
    let names = ["mistral", "qwen2", "qwen3", "olmo2", "falcon", "falcon_grouped", "palm"];
    for name in names.into_iter().chain(["gemma3", "mixtral", "qwen3_moe"]) {
        let c = case(name);
        let plan = plan(&c);
        check_step_of(name, &c, &plan);
        check_training_of(name, &c, &plan, "train.");
    }
}

/// Rotary positions that are scaled for longer sequences; the frequencies of more kinds and sizes are in `rope.json`.
#[test]
fn llama_models_with_scaled_positions() {
    for name in ["llama_rope_llama3", "llama_rope_yarn"] {
        check_step(name);
    }
}

#[test]
fn scaled_frequencies_are_those_of_hugging_face() {
    let text = std::fs::read(folder().join("rope.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() >= 7);
    for case in &cases {
        let dims = case["rotary_dims"].as_u64().unwrap();
        let mut sets: Vec<String> = ["num_layers=1", "num_attention_heads=1", "seq_length=2"]
            .into_iter()
            .chain(["padded_vocab_size=8", "train_micro_batch_size_per_gpu=1", "train_iters=1"])
            .chain(["pos_emb=rotary", "optimizer={params: {lr: 0.001}}"])
            .map(String::from)
            .collect();
        sets.push(format!("hidden_size={dims}"));
        for key in ["rotary_emb_base", "rope_scaling"] {
            sets.push(format!("{key}={}", yaml(&case[key])));
        }
        let loaded = neoxc_frontend::load(&[], None, &sets);
        let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
        let m = phases(&config, Target::X86V3, None, true, Phase::Model, &mut |_, _, _, _| {});
        let m = m.unwrap();
        let tables = neoxc_ir::eval::run(&m, "setup", &[]).unwrap();
        let (cos, sin) = (&tables[0].data, &tables[1].data);
        let amplitude = case["amplitude"].as_f64().unwrap();
        for (i, want) in case["frequencies"].as_array().unwrap().iter().enumerate() {
            // Position 1, which turns by less than half a circle.
            let at = dims as usize / 2 + i;
            let (angle, size) = (sin[at].atan2(cos[at]), sin[at].hypot(cos[at]));
            let off = (angle / want.as_f64().unwrap() - 1.0).abs();
            assert!(off < 2e-6, "{case}: pair {i} turns by {angle}, not {want}");
            assert!((size - amplitude).abs() < 1e-9, "{case}: {size}");
        }
    }
}

/// Experts, dropless and of limited capacity, by probability and by Sinkhorn's shares.
#[test]
fn models_with_experts() {
    for name in ["experts_dropless", "experts_dropping", "experts_sinkhorn"] {
        check_step(name);
    }
}

fn check_training(name: &str) {
    let c = case(name);
    check_training_of(name, &c, &plan(&c), "");
}

/// The batches are the tensors whose names begin with `prefix`.
fn check_training_of(name: &str, c: &Case, plan: &Plan, prefix: &str) {
    let (settings, weights) = (settings(plan).unwrap(), weights(&config(c)));
    let mut m = Machine::new(plan, &|n| c.whole("param", n, &weights));
    let numbers = |key: &str| -> Vec<f64> {
        c.json[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let (losses, lrs, norms) = (numbers("losses"), numbers("lrs"), numbers("grad_norms"));
    for step in 0..losses.len() {
        let part = |key: &str| {
            let all = &c.tensors[&format!("{prefix}{key}")];
            let size = all.len() / losses.len();
            all[step * size..(step + 1) * size].to_vec()
        };
        let n = step as u64 + 1;
        let lr = learning_rate(&settings.rate, n);
        assert!(
            (lr - lrs[step]).abs() < 1e-12,
            "{name} step {n}: learning rate {lr}, {}",
            lrs[step]
        );
        m.step(&part("tokens"), &part("labels"), &part("mask"), lr, n);
        let (loss, norm) = (m.get("train_step", "loss")[0], m.get("train_step", "grad_norm")[0]);
        assert!(
            (f64::from(loss) - losses[step]).abs() < 1e-4,
            "{name} step {n}: {loss} {}",
            losses[step]
        );
        let off = (f64::from(norm) - norms[step]).abs() / norms[step];
        assert!(off < 1e-4, "{name} step {n}: norm {norm} {}", norms[step]);
    }
    for (n, got) in m.tensors(&Values::Weights) {
        // The key's part of this bias has no effect; its gradient is rounding noise, which Adam scales up.
        if !n.ends_with("query_key_value.bias") {
            let d = distance(&got, &floats(&c.whole("final", &n, &weights)));
            assert!(d < 1e-4, "{name}: {n} ends {d} off");
        }
    }
}

#[test]
fn twenty_steps_of_training() {
    check_training("train");
    check_training("train_accumulate");
    check_training("llama_train");
}

/// The documented hash: element i is the (i+1)-th SplitMix64 output, seeded with FNV-1a of the name.
fn hashed(name: &str, elements: u64) -> Vec<u8> {
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut state = seed;
    let mut out = vec![];
    for _ in 0..elements {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let k = (z >> 40) as i64;
        let mut value = (2 * k - (1 << 24)) as f64 / f64::from(1 << 28);
        if name.ends_with("norm.weight") {
            value = 1.0 + 2.0 * value;
        }
        out.extend((value as f32).to_le_bytes());
    }
    out
}

#[test]
fn models_of_real_size() {
    check_sampled("pythia_14m");
    check_sampled("llama_15m");
}

fn check_sampled(name: &str) {
    let c = case(name);
    let plan = plan(&c);
    let weights: HashMap<String, Weight> =
        weights(&config(&c)).into_iter().map(|w| (w.name.clone(), w)).collect();
    let mut m = Machine::new(&plan, &|n| {
        let w = &weights[n];
        let mut whole = vec![0; w.elements() * 4];
        for piece in &w.pieces {
            w.join(&mut whole, piece, &hashed(&piece.name, piece.shape.iter().product()), 4);
        }
        whole
    });
    let tokens = &c.tensors["tokens"];
    let wanted = floats(&c.tensors["logits"]);
    let positions = c.tensors["logit_positions"].chunks(4);
    for (i, p) in positions.map(|b| i32::from_le_bytes(b.try_into().unwrap())).enumerate() {
        let got = m.logits(tokens, p as usize);
        let d = distance(&got, &wanted[i * got.len()..(i + 1) * got.len()]);
        assert!(d < TOLERANCE, "{name}: logits at {p} are off by {d}");
    }
    m.step(tokens, &c.tensors["labels"], &c.tensors["mask"], 0.0, 1);
    let d = distance(&m.get("train_step", "loss"), &floats(&c.tensors["loss"]));
    assert!(d < TOLERANCE, "the loss is off by {d}");
    let pieces = m.tensors(&Values::Gradient).into_iter().flat_map(|(n, got)| {
        let w = &weights[&n];
        let bytes: Vec<u8> = got.iter().flat_map(|x| x.to_le_bytes()).collect();
        let piece = |p| (w.split(&bytes, p, 4), p.name.clone());
        w.pieces.iter().map(piece).collect::<Vec<_>>()
    });
    for (got, n) in pieces.map(|(bytes, n)| (floats(&bytes), n)) {
        let index = c.tensors[&format!("grad_index.{n}")].chunks(4);
        let sample = floats(&c.tensors[&format!("grad_sample.{n}")]);
        let g = &c.json["gradients"][&n];
        let most = g["max_abs"].as_f64().unwrap();
        for (i, want) in index.zip(&sample) {
            let i = i32::from_le_bytes(i.try_into().unwrap()) as usize;
            let off = f64::from((got[i] - want).abs()) / most;
            assert!(off < f64::from(TOLERANCE), "gradient of {n} at {i} is off by {off}");
        }
        let norm = got.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let want = g["norm"].as_f64().unwrap();
        assert!((norm - want).abs() < 1e-4 * want, "{n}: norm {norm}, {want}");
    }
}

/// |got - want| / |want| in the Euclidean norm.
fn apart(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let off: f64 = got.iter().zip(want).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = want.iter().map(|x| square(f64::from(*x))).sum();
    (off / size).sqrt()
}

/// bfloat16 is no farther from the f32 goldens than PyTorch's, whose weights, gradients and sums are bfloat16
/// too: `bf16.json` has its distances.
#[test]
fn bf16_is_as_close_as_pytorch_s() {
    is_as_close_as_pytorch_s("bf16", "bfloat16", (1.0, 1e-3));
}

/// So is fp16, whose gradients are those of the scaled loss here and there.
#[test]
fn fp16_is_as_close_as_pytorch_s() {
    is_as_close_as_pytorch_s("fp16", "fp16", (LOSS_SCALE as f32, 2.5e-4));
}

/// Gradients are `scale` times too large; `place` is what roundings in other places may add.
fn is_as_close_as_pytorch_s(file: &str, precision: &str, (scale, place): (f32, f64)) {
    let text = std::fs::read(folder().join(format!("{file}.json"))).unwrap();
    let peer: Value = serde_json::from_slice(&text).unwrap();
    for (name, peer) in peer.as_object().unwrap().iter().filter(|(_, v)| v.is_object()) {
        let mut c = case(name);
        c.json["neox"]["precision"] = precision.into();
        let plan = plan(&c);
        let mut m = Machine::new(&plan, &|n| c.tensors[&format!("param.{n}")].clone());
        let bound = |of: &Value| 1.25 * of.as_f64().unwrap() + place;
        let seq = plan.tables.run["seq_length"].as_u64().unwrap() as usize;
        let mut logits = vec![];
        for ids in c.tensors["tokens"].chunks(seq * 4) {
            (0..seq).for_each(|position| logits.extend(m.logits(ids, position)));
        }
        let d = apart(&logits, &floats(&c.tensors["logits"]));
        assert!(d < bound(&peer["logits"]), "{name}: logits are off by {d}");
        let rows = c.tensors["tokens"].chunks(seq * 4);
        let decoded: Vec<f32> = rows.flat_map(|ids| m.decoded(ids)).collect();
        let d = apart(&decoded, &floats(&c.tensors["logits"]));
        assert!(d < bound(&peer["logits"]), "{name}: logits token by token are off by {d}");
        assert!(d > 1e-5, "{name}: logits token by token are not rounded");
        let [tokens, labels, mask] = ["tokens", "labels", "mask"].map(|n| &c.tensors[n]);
        m.step(tokens, labels, mask, 0.0, 1);
        let d = apart(&m.get("train_step", "loss"), &floats(&c.tensors["loss"]));
        assert!(d < bound(&peer["loss"]), "{name}: the loss is off by {d}");
        let (mut all, mut theirs) = (0.0, 0.0);
        for (n, got) in m.tensors(&Values::Gradient) {
            let got: Vec<f32> = got.iter().map(|x| x / scale).collect();
            let d = apart(&got, &floats(&c.tensors[&format!("grad.{n}")]));
            let of = &peer["grads"][&n];
            assert!(d < bound(of), "{name}: the gradient of {n} is off by {d}, PyTorch's by {of}");
            assert!(d > 1e-5, "{name}: the gradient of {n} is not rounded");
            (all, theirs) = (all + d, theirs + of.as_f64().unwrap());
        }
        // One tensor's roundings may be luckier there; those of all together are not.
        assert!(all < theirs, "{name}: gradients are off by {all} in all, PyTorch's by {theirs}");
        println!(
            "{precision} {name}: gradients are off by {:.2} of what PyTorch's are",
            all / theirs
        );
    }
}
