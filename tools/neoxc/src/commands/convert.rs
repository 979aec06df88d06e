//! `neoxc convert`: between checkpoints and Hugging Face's GPTNeoXForCausalLM folders.

use std::collections::BTreeMap;
use std::path::Path;

use neoxc_frontend::Config;
use neoxc_runtime::checkpoint;
use neoxc_runtime::files::write_bytes;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::Failure;
use crate::cli::{Convert, Precision};

/// Runs a conversion.
pub fn run(a: Convert) -> Result<(), Failure> {
    match a {
        Convert::NeoxToHf { checkpoint, out, precision } => to_hf(&checkpoint, &out, precision),
        Convert::HfToNeox { dir, out } => from_hf(&dir, &out),
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |e| Failure::new(5, format!("error: {path}: {e}"))
}

fn bad(path: &Path, message: impl std::fmt::Display) -> Failure {
    Failure::new(3, format!("error: {}: {message}", path.display()))
}

fn refuse_existing(out: &Path) -> Result<(), Failure> {
    match out.exists() {
        true => Err(Failure::new(5, format!("error: {} exists already", out.display()))),
        false => Ok(()),
    }
}

/// `config.json` of GPTNeoXForCausalLM for a configuration.
fn hf_config(c: &Config) -> serde_json::Value {
    let m = &c.model;
    let head = m.hidden_size / m.num_attention_heads;
    serde_json::json!({
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": m.padded_vocab_size,
        "hidden_size": m.hidden_size,
        "num_hidden_layers": m.num_layers,
        "num_attention_heads": m.num_attention_heads,
        "intermediate_size": m.intermediate_size,
        "hidden_act": if m.gelu_tanh { "gelu_new" } else { "gelu" },
        "rotary_pct": m.rotary_dims as f64 / head as f64,
        "rotary_emb_base": m.rotary_emb_base,
        "max_position_embeddings": m.max_position_embeddings,
        "layer_norm_eps": m.layernorm_epsilon,
        "use_parallel_residual": m.gpt_j_residual,
        "tie_word_embeddings": m.tied,
        "attention_bias": m.use_bias_in_attn_linear,
        "torch_dtype": "float32",
        "use_cache": true,
    })
}

fn to_hf(folder: &Path, out: &Path, precision: Precision) -> Result<(), Failure> {
    refuse_existing(out)?;
    let (reader, config) = super::checkpoint::open(folder)?;
    let m = &config.model;
    let expressible =
        m.pos_emb == "rotary" && m.use_bias_in_norms && m.use_bias_in_mlp && !m.gpt_j_tied;
    if !expressible {
        let why = "GPTNeoXForCausalLM needs rotary positions, biases in norms and MLP, and a norm per branch";
        return Err(bad(folder, why));
    }
    if m.moe.is_some() {
        return Err(bad(folder, "GPTNeoXForCausalLM has no experts"));
    }
    let mut data: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut whole = vec![];
    for name in reader.manifest.weights() {
        reader.read(name, &mut whole)?;
        let shape = reader.entry(name).map(|e| e.shape.clone()).unwrap_or_default();
        let shape = shape.into_iter().map(|d| d as usize).collect();
        data.insert(name.clone(), (shape, narrow(&whole, precision)));
    }
    let dtype = match precision {
        Precision::Fp32 => Dtype::F32,
        Precision::Bf16 => Dtype::BF16,
        Precision::Fp16 => Dtype::F16,
    };
    let mut json = hf_config(&config);
    json["torch_dtype"] = match precision {
        Precision::Fp32 => "float32",
        Precision::Bf16 => "bfloat16",
        Precision::Fp16 => "float16",
    }
    .into();
    write_folder(out, &json, data, dtype)
}

/// f32 bytes in another storage dtype, rounded to nearest even.
fn narrow(bytes: &[u8], precision: Precision) -> Vec<u8> {
    let floats = bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    match precision {
        Precision::Fp32 => bytes.to_vec(),
        Precision::Bf16 => floats.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        Precision::Fp16 => floats.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn write_folder(
    out: &Path,
    config: &serde_json::Value,
    data: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    dtype: Dtype,
) -> Result<(), Failure> {
    let mut views = vec![];
    for (name, (shape, bytes)) in &data {
        let view = TensorView::new(dtype, shape.clone(), bytes).map_err(|e| bad(out, e))?;
        views.push((name.clone(), view));
    }
    let format = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let file = safetensors::serialize(views, Some(format)).map_err(|e| bad(out, e))?;
    let text = serde_json::to_string_pretty(config).map_err(|e| bad(out, e))?;
    write_bytes(&out.join("model.safetensors"), &file)?;
    write_bytes(&out.join("config.json"), text.as_bytes())?;
    println!("{}: {} tensors", out.display(), data.len());
    Ok(())
}

fn from_hf(dir: &Path, out: &Path) -> Result<(), Failure> {
    refuse_existing(out)?;
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(io(&path))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(&path, e))?;
    let want = |key: &str| json.get(key).cloned().unwrap_or_default();
    if want("model_type") != "gpt_neox" {
        return Err(bad(&path, "is not a GPTNeoX model"));
    }
    let sets = hf_to_sets(&json);
    let loaded = neoxc_frontend::load(&[], None, &sets);
    if loaded.config.is_none() {
        crate::render::report(&loaded.diagnostics, &loaded.sources);
    }
    let config =
        loaded.config.ok_or_else(|| bad(&path, "describes a model that cannot be built"))?;
    let compiled = super::compile_config(
        &config,
        &crate::cli::TargetArgs { target: vec![neoxc_ir::target::Target::X86Native], cache: None },
    )?;
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).map_err(io(&path))?;
    let st = SafeTensors::deserialize(&bytes).map_err(|e| bad(&path, e))?;
    let mut floats: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for p in &compiled.plan.tables.parameters {
        for name in p.names() {
            let view = st.tensor(&name).map_err(|_| bad(&path, format!("has no {name}")))?;
            let shape: Vec<u64> = view.shape().iter().map(|s| *s as u64).collect();
            if shape != p.shape {
                return Err(bad(&path, format!("{name} is {shape:?}, expected {:?}", p.shape)));
            }
            floats.insert(name.clone(), widen(&path, &name, &view)?);
        }
    }
    let settings = neoxc_runtime::train::Settings::of(&compiled.plan)?;
    let parameters = compiled.plan.tables.parameters.clone();
    // Converted weights start training anew: the optimizer's state is zero.
    let zeros = vec![0; parameters.iter().map(|p| p.elements() as usize * 4).max().unwrap_or(0)];
    let get = |_, t: &checkpoint::Tensor| match floats.get(&t.name) {
        Some(bytes) => bytes.as_slice(),
        _ => &zeros[..parameters[t.parameter].elements() as usize * 4],
    };
    let saved = checkpoint::save(out, &compiled.plan, &settings, 0, 0, &get)?;
    println!("{}: {} tensors", saved.display(), floats.len());
    Ok(())
}

/// f32 bytes of a tensor in any storage dtype.
fn widen(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Vec<u8>, Failure> {
    let pairs = || view.data().chunks_exact(2).map(|c| [c[0], c[1]]);
    Ok(match view.dtype() {
        Dtype::F32 => view.data().to_vec(),
        Dtype::BF16 => {
            pairs().flat_map(|c| half::bf16::from_le_bytes(c).to_f32().to_le_bytes()).collect()
        }
        Dtype::F16 => {
            pairs().flat_map(|c| half::f16::from_le_bytes(c).to_f32().to_le_bytes()).collect()
        }
        other => return Err(bad(path, format!("{name} has dtype {other:?}"))),
    })
}

/// A Hugging Face configuration as NeoX keys.
fn hf_to_sets(json: &serde_json::Value) -> Vec<String> {
    let get = |key: &str| json.get(key).filter(|v| !v.is_null());
    let number =
        |key: &str, default: f64| get(key).and_then(serde_json::Value::as_f64).unwrap_or(default);
    let flag =
        |key: &str, default: bool| get(key).and_then(serde_json::Value::as_bool).unwrap_or(default);
    // Newer configurations keep rotary settings in a dictionary of their own.
    let rope = |key: &str, old: &str, default: f64| {
        let new =
            get("rope_parameters").and_then(|r| r.get(key)).and_then(serde_json::Value::as_f64);
        new.unwrap_or_else(|| number(old, default))
    };
    let act = get("hidden_act").and_then(|v| v.as_str()).unwrap_or("gelu").to_string();
    let whole = |key: &str| number(key, 0.0) as u64;
    let context = whole("max_position_embeddings").max(1);
    vec![
        format!("num_layers={}", whole("num_hidden_layers")),
        format!("hidden_size={}", whole("hidden_size")),
        format!("num_attention_heads={}", whole("num_attention_heads")),
        format!("intermediate_size={}", whole("intermediate_size")),
        format!("padded_vocab_size={}", whole("vocab_size")),
        format!("seq_length={context}"),
        format!("max_position_embeddings={context}"),
        "pos_emb=rotary".into(),
        format!("rotary_pct={:?}", rope("partial_rotary_factor", "rotary_pct", 0.25)),
        format!("rotary_emb_base={}", rope("rope_theta", "rotary_emb_base", 10_000.0) as u64),
        format!("layernorm_epsilon={}", decimal(number("layer_norm_eps", 1e-5))),
        format!("gpt_j_residual={}", flag("use_parallel_residual", true)),
        format!("no_weight_tying={}", !flag("tie_word_embeddings", false)),
        format!("use_bias_in_attn_linear={}", flag("attention_bias", true)),
        format!("bias_gelu_fusion={}", act != "gelu"),
        "train_micro_batch_size_per_gpu=1".into(),
        "train_iters=1".into(),
        "optimizer={type: Adam, params: {lr: 0.001}}".into(),
    ]
}

/// A float as YAML 1.1 reads floats.
fn decimal(x: f64) -> String {
    format!("{x:.20}")
}
