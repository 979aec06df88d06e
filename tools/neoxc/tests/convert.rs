//! `neoxc convert` on models that Hugging Face has computed (`tests/golden`), and on folders that are not whole.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn neoxc(folder: &Path, args: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_neoxc"))
        .args(args)
        .current_dir(folder)
        .env("NEOXC_CACHE", folder.join("cache"))
        .output()
        .unwrap();
    let told = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    assert!(!told.contains("panicked"), "{told}");
    (out.status.code().unwrap(), told)
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let (code, told) = neoxc(folder, args);
    assert_eq!(code, 0, "{args:?}: {told}");
    told
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn golden(name: &str) -> (Value, Tensors) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let json: Value =
        serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json"))).unwrap())
            .unwrap();
    let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    let st = SafeTensors::deserialize(&bytes).unwrap();
    let all = st.tensors().into_iter().filter_map(|(n, v)| {
        let name = n.strip_prefix("param.")?.to_string();
        Some((name, (v.shape().to_vec(), v.data().to_vec())))
    });
    (json["hf"].clone(), all.collect())
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, (shape, data))| {
        (n.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn tensors(folder: &Path) -> Tensors {
    let mut out = Tensors::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            let st = SafeTensors::deserialize(&bytes).unwrap();
            for (n, v) in st.tensors() {
                assert!(out.insert(n, (v.shape().to_vec(), v.data().to_vec())).is_none());
            }
        }
    }
    out
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A Hugging Face folder called `hf` of a golden.
fn folder(at: &Path, name: &str) -> (PathBuf, Value, Tensors) {
    let dir = at.join("hf");
    std::fs::create_dir_all(&dir).unwrap();
    let (config, tensors) = golden(name);
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    write(&dir.join("model.safetensors"), &tensors);
    (dir, config, tensors)
}

/// What Hugging Face has of a model comes back from a checkpoint to the bit, in one file or in shards; and what it
/// says of special ids and of text is carried.
#[test]
fn models_come_back_as_they_were() {
    for name in ["llama_grouped", "llama_one_key_head_tied", "parallel_erf"] {
        let at = tempfile::tempdir().unwrap();
        let f = at.path();
        let (dir, config, given) = folder(f, name);
        std::fs::write(dir.join("generation_config.json"), "{\"top_k\": 7}").unwrap();
        ok(f, &["convert", "hf-to-neox", "hf", "neox"]);
        let told = ok(
            f,
            &["convert", "neox-to-hf", "neox/global_step0", "back", "--max-shard-size", "8KB"],
        );
        assert!(told.contains("logits differ by 0e0 of "), "{told}");
        assert_eq!(tensors(&f.join("back")), given, "{name}");
        let index = json_of(&f.join("back/model.safetensors.index.json"));
        assert_eq!(index["weight_map"].as_object().unwrap().len(), given.len());
        let back = json_of(&f.join("back/config.json"));
        for key in
            ["bos_token_id", "eos_token_id", "vocab_size", "tie_word_embeddings", "hidden_act"]
        {
            assert_eq!(back[key], config[key], "{name}: {key}");
        }
        assert_eq!(json_of(&f.join("back/generation_config.json"))["top_k"], 7);
        let certificate = json_of(&f.join("back.certificate.json"));
        assert_eq!(certificate["largest_difference"], 0.0);
        assert!(
            certificate["tokens"].as_u64() > Some(20)
                && certificate["tolerance"].as_f64() > Some(0.0)
        );
        // Shards are read as one file is, and a narrower dtype is what it says.
        ok(f, &["convert", "hf-to-neox", "back", "again"]);
        let told =
            ok(f, &["convert", "neox-to-hf", "again/global_step0", "bf16", "--precision", "bf16"]);
        assert!(told.contains("logits differ by 0e0"), "{told}");
        let certificate = json_of(&f.join("bf16.certificate.json"));
        assert!(certificate["largest_difference_by_rounding_to_dtype"].as_f64() > Some(1e-4));
        let left = std::fs::read_dir(f).unwrap().map(|e| e.unwrap().file_name());
        assert!(left.into_iter().all(|n| !n.to_string_lossy().ends_with(".tmp")));
    }
}

/// Families whose classes have Llama's names and differ in what they have: the class is the one that was read.
#[test]
fn families_come_back_as_they_were() {
    let at = tempfile::tempdir().unwrap();
    let f = at.path();
    let names = ["mistral", "qwen2", "qwen3", "olmo2", "falcon", "falcon_grouped", "mixtral"];
    for name in names.into_iter().chain(["gemma3", "qwen3_moe"]) {
        let (dir, config, given) = folder(f, name);
        ok(f, &["convert", "hf-to-neox", "hf", name]);
        let (neox, back) = (format!("{name}/global_step0"), format!("{name}-back"));
        let told = ok(f, &["convert", "neox-to-hf", &neox, &back]);
        assert!(told.contains("logits differ by 0e0 of "), "{told}");
        assert_eq!(tensors(&f.join(&back)), given, "{name}");
        let json = json_of(&f.join(&back).join("config.json"));
        assert_eq!(json["model_type"], config["model_type"]);
        let class = json["architectures"][0].as_str().unwrap().to_lowercase();
        let family = json["model_type"].as_str().unwrap().replace("_text", "").replace('_', "");
        assert_eq!(class, format!("{family}forcausallm"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// Each is told by name before anything is compiled or written.
#[test]
fn folders_that_are_not_whole_are_refused_by_name() {
    let at = tempfile::tempdir().unwrap();
    let f = at.path();
    let (dir, config, given) = folder(f, "llama_grouped");
    let refuse = |wants: &[&str]| {
        let (code, told) = neoxc(f, &["convert", "hf-to-neox", "hf", "out"]);
        assert_eq!(code, 3, "{told}");
        assert!(told.starts_with("error[NXR0303]: ") && told.contains("  = hint: "), "{told}");
        assert!(wants.iter().all(|w| told.contains(w)), "{wants:?}: {told}");
        assert!(!f.join("out").exists() && !f.join("cache").exists(), "{told}");
    };
    let set = |key: &str, value: Value| {
        let mut c = config.clone();
        c[key] = value;
        std::fs::write(dir.join("config.json"), c.to_string()).unwrap();
    };
    set("rope_parameters", json!({"rope_type": "longrope", "factor": 4.0, "rope_theta": 10000.0}));
    refuse(&["`rope_parameters.rope_type` is \"longrope\": of scaled rotary positions there are "]);
    set("use_sliding_window", json!(true));
    refuse(&["`use_sliding_window` is not known"]);
    set("hidden_act", json!("quick_gelu"));
    refuse(&["`hidden_act` is \"quick_gelu\""]);
    set("vocab_size", json!(62));
    refuse(&["model.embed_tokens.weight is [61, 24], the model has [62, 24]"]);
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();

    let mut more = given.clone();
    more.insert("model.extra.weight".into(), (vec![1], vec![0; 4]));
    write(&dir.join("model.safetensors"), &more);
    refuse(&["has model.extra.weight, which the model has not"]);

    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    std::fs::write(dir.join("pytorch_model.bin"), "pickle").unwrap();
    refuse(&["pytorch_model.bin: is a pickle", "save_pretrained"]);

    // Two shards, and an index that does not say what they have.
    let (last, rest) = {
        let mut rest = given.clone();
        (rest.pop_last().unwrap(), rest)
    };
    write(&dir.join("a.safetensors"), &rest);
    write(&dir.join("b.safetensors"), &Tensors::from([last.clone()]));
    let map: BTreeMap<&str, &str> = given
        .keys()
        .map(|n| (n.as_str(), if *n == last.0 { "b.safetensors" } else { "a.safetensors" }))
        .collect();
    let index = |map: String| {
        let text = format!("{{\"metadata\": {{}}, \"weight_map\": {map}}}");
        std::fs::write(dir.join("model.safetensors.index.json"), text).unwrap();
    };
    let text = |map: &BTreeMap<&str, &str>| serde_json::to_string(map).unwrap();
    let changed = |name: &'static str, file: Option<&'static str>| {
        let mut map = map.clone();
        map.remove(name);
        map.extend(file.map(|f| (name, f)));
        text(&map)
    };
    index(changed("lm_head.weight", None));
    refuse(&["a.safetensors: has lm_head.weight, which the index does not have"]);
    index(changed("lm_head.weight", Some("b.safetensors")));
    refuse(&["has lm_head.weight, which the index says is in b.safetensors"]);
    index(changed("model.none.weight", Some("c.safetensors")));
    refuse(&["c.safetensors, which has model.none.weight, is missing"]);
    index(changed("model.none.weight", Some("b.safetensors")));
    refuse(&["has no model.none.weight, which the index says it has"]);
    index(changed("model.norm.weight", Some("../a.safetensors")));
    refuse(&["is not a file of this folder"]);
    let twice = text(&map).replacen('{', "{\"lm_head.weight\": \"b.safetensors\",", 1);
    index(twice);
    refuse(&["`weight_map` has lm_head.weight twice, in b.safetensors and in a.safetensors"]);
    index(text(&map));
    ok(f, &["convert", "hf-to-neox", "hf", "out"]);
}

/// The cases of `../shared/cases`, where they are.
#[test]
fn cases_of_users() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases");
    if !cases.exists() {
        eprintln!("skipped: there is no ../shared/cases");
        return;
    }
    let at = tempfile::tempdir().unwrap();
    let f = at.path();
    let convert =
        |dir: PathBuf, out: &str| neoxc(f, &["convert", "hf-to-neox", dir.to_str().unwrap(), out]);
    let linear = cases.join("04-hf-rope-scaling/linear");
    let scaling = |dir: &Path, key: &str| {
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
        let of = &serde_json::from_str::<Value>(&text).unwrap()[key];
        (of["rope_type"].clone(), of["factor"].clone())
    };
    let (code, told) = convert(linear.clone(), "out1");
    assert_eq!(code, 0, "{told}");
    ok(f, &["convert", "neox-to-hf", "out1/global_step0", "back"]);
    assert_eq!(scaling(&f.join("back"), "rope_scaling"), scaling(&linear, "rope_parameters"));
    let (code, told) = convert(cases.join("19-hf-other-weight-files/sharded"), "out2");
    assert_eq!(code, 0, "{told}");
    let (code, told) = convert(cases.join("19-hf-other-weight-files/pickled"), "out3");
    assert_eq!(code, 3);
    assert!(told.contains("pytorch_model.bin: is a pickle"), "{told}");
    // What ends a text, and the tokenizer, come along from a run's checkpoint.
    let case = f.join("06");
    for dir in [&f.join("common"), &case] {
        std::fs::create_dir(dir).unwrap();
    }
    for file in std::fs::read_dir(cases.join("common")).unwrap().flatten() {
        if file.path().is_file() {
            std::fs::copy(file.path(), f.join("common").join(file.file_name())).unwrap();
        }
    }
    let files = ["model", "run", "data"].map(|name| format!("../common/{name}.yml"));
    let run = [&["run"], &files.each_ref().map(String::as_str)[..]].concat();
    ok(&case, &[&run[..], &["--set", "train_iters=1", "--save", "out"]].concat());
    ok(&case, &["convert", "neox-to-hf", "out/global_step1", "hf"]);
    let config = std::fs::read_to_string(case.join("hf/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["bos_token_id"], &config["eos_token_id"]), (&json!(0), &json!(0)));
    let tokenizer = std::fs::read(f.join("common/tokenizer.json")).unwrap();
    assert_eq!(std::fs::read(case.join("hf/tokenizer.json")).unwrap(), tokenizer);
}
