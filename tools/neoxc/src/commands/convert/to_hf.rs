//! `neoxc convert neox-to-hf`: a checkpoint as a Hugging Face folder that has been shown to compute the same.

use std::collections::BTreeMap;
use std::path::Path;

use neoxc_base::read;
use neoxc_driver::hugging_face::{self, Piece, Weight};
use safetensors::tensor::Dtype;
use serde_json::Value;

use super::{bad, draft, finish, proof, refuse_existing, refused, shards, tokenizer};
use crate::Failure;
use crate::cli::{NeoxToHf, Precision};

/// What helps where no class of Hugging Face has the model's options.
const NO_CLASS: &str = "docs/howto/hugging-face.md lists the options of models that can be written";

/// The storage dtype's names, in safetensors and in `config.json`.
pub fn dtype(precision: Precision) -> (Dtype, &'static str) {
    match precision {
        Precision::Fp32 => (Dtype::F32, "float32"),
        Precision::Bf16 => (Dtype::BF16, "bfloat16"),
        Precision::Fp16 => (Dtype::F16, "float16"),
    }
}

/// A number that is not written, and what helps.
#[derive(Debug)]
struct Unheld {
    what: String,
    hint: &'static str,
}

/// f32 bytes in another storage dtype, rounded to nearest even; refuses what becomes infinite, or was not finite.
fn narrow(name: &str, bytes: &[u8], precision: Precision) -> Result<Vec<u8>, Unheld> {
    let mut out = Vec::with_capacity(bytes.len());
    for c in bytes.as_chunks::<4>().0 {
        let x = f32::from_le_bytes(*c);
        if !x.is_finite() {
            let hint = "take a checkpoint from before the run diverged";
            return Err(Unheld { what: format!("{name} has {x}"), hint });
        }
        let finite = match precision {
            Precision::Fp32 => {
                out.extend(c);
                true
            }
            Precision::Bf16 => {
                let y = half::bf16::from_f32(x);
                out.extend(y.to_le_bytes());
                y.is_finite()
            }
            Precision::Fp16 => {
                let y = half::f16::from_f32(x);
                out.extend(y.to_le_bytes());
                y.is_finite()
            }
        };
        if !finite {
            let kind = dtype(precision).1;
            let what = format!("{name} has {x:e}, which {kind} does not hold");
            return Err(Unheld { what, hint: "--precision fp32 keeps it" });
        }
    }
    Ok(out)
}

/// f32 bytes as they come back from another storage dtype.
pub fn rounded(bytes: &[u8], precision: Precision) -> Vec<u8> {
    let floats = bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c));
    match precision {
        Precision::Fp32 => bytes.to_vec(),
        Precision::Bf16 => {
            floats.flat_map(|x| half::bf16::from_f32(x).to_f32().to_le_bytes()).collect()
        }
        Precision::Fp16 => {
            floats.flat_map(|x| half::f16::from_f32(x).to_f32().to_le_bytes()).collect()
        }
    }
}

/// Refuses to replace a certificate, unless it is `ours`: left behind by a conversion that was killed before its folder
/// had its name.
fn refuse_certificate_of_another(
    path: &Path,
    ours: impl Fn(&Value) -> bool,
) -> Result<(), Failure> {
    let left = read::bytes(path, read::SETTINGS).ok();
    let left = left.and_then(|text| serde_json::from_slice(&text).ok());
    match left.is_some_and(|json| ours(&json)) {
        true => Ok(()),
        false => refuse_existing(path),
    }
}

/// Runs the conversion.
pub fn run(a: &NeoxToHf) -> Result<(), Failure> {
    let (folder, out, precision) = (&a.checkpoint, &a.out, a.precision);
    refuse_existing(out)?;
    let certificate = out.with_file_name(format!(
        "{}.certificate.json",
        out.file_name().unwrap_or_default().to_string_lossy()
    ));
    refuse_certificate_of_another(&certificate, |json| {
        json["checkpoint"] == folder.display().to_string().as_str()
    })?;
    let (reader, config) = crate::commands::checkpoint::open(folder)?;
    let mut json = hugging_face::config_json(&config).map_err(|e| refused(folder, e, NO_CLASS))?;
    let weights = hugging_face::weights(&config);
    let (kind, kind_name) = dtype(precision);
    let width = if precision == Precision::Fp32 { 4 } else { 2 };
    let mut tensors = vec![];
    let mut of: BTreeMap<&str, (&Weight, &Piece)> = BTreeMap::new();
    for w in &weights {
        for piece in &w.pieces {
            let shape: Vec<usize> = piece.shape.iter().map(|n| *n as usize).collect();
            let bytes = shape.iter().product::<usize>() * width;
            tensors.push(shards::Tensor { name: piece.name.clone(), shape, bytes });
            of.insert(&piece.name, (w, piece));
        }
    }
    let count = tensors.len();
    let draft = draft(out)?;
    // The pieces of a weight follow each other.
    let mut last = (String::new(), vec![]);
    let mut get = |name: &str| {
        let (w, piece) = of[name];
        if last.0 != w.name {
            reader.read(&w.name, &mut last.1)?;
            last.0.clone_from(&w.name);
        }
        narrow(name, &w.split(&last.1, piece, 4), precision)
            .map_err(|e| refused(folder, e.what, e.hint))
    };
    let files = shards::divide(tensors, a.max_shard_size);
    shards::write(draft.path(), &files, kind, &mut get)?;
    let special = tokenizer::carry(folder, &config, a.tokenizer.as_deref(), draft.path())?;
    json.extend(special);
    json.insert("torch_dtype".into(), kind_name.into());
    let text = serde_json::to_vec_pretty(&json).map_err(|e| bad(out, e))?;
    neoxc_runtime::files::write_bytes(&draft.path().join("config.json"), &text)?;
    let proof = proof::prove(&reader, &config, draft.path(), precision)?;
    let text =
        serde_json::to_vec_pretty(&proof.certificate(folder, &json)).map_err(|e| bad(out, e))?;
    // A folder comes after its certificate: none appears without.
    let certified: Value = serde_json::from_slice(&text).map_err(|e| bad(out, e))?;
    refuse_certificate_of_another(&certificate, |json| *json == certified)?;
    let written = neoxc_runtime::files::write_bytes(&certificate, &text);
    if let Err(e) = written.map_err(Failure::from).and_then(|()| finish(draft, out)) {
        if !out.exists() {
            let _ = std::fs::remove_file(&certificate);
        }
        return Err(e);
    }
    println!("{}: {count} tensors, {}", out.display(), proof.told());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dtype_does_not_hold_is_refused_by_name() {
        let bytes = |x: f32| x.to_le_bytes().to_vec();
        for (x, precision, fits) in [
            (1e5, Precision::Fp16, false),
            (65504.0, Precision::Fp16, true),
            (1e5, Precision::Bf16, true),
            (f32::MAX, Precision::Bf16, false),
            (f32::MAX, Precision::Fp32, true),
            (f32::NAN, Precision::Fp32, false),
        ] {
            let got = narrow("w", &bytes(x), precision);
            assert_eq!(got.is_ok(), fits, "{x}");
            assert!(fits || got.is_err_and(|e| e.what.starts_with("w has ")));
        }
    }
}
