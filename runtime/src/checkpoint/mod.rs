//! Checkpoints: `global_stepN/` with parameters and optimizer state by logical name.
//!
//! ```text
//! global_step200/manifest.json        step, sample cursor, hashes
//!                model.safetensors    published GPTNeoX names, f32
//!                optimizer.safetensors   exp_avg.<name>, exp_avg_sq.<name>
//! latest                              name of the newest complete folder
//! ```
//! A folder appears when it is whole: temporary name, fsync, rename. Layout and thread count leave
//! no trace in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use neoxc_plan::Plan;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::RuntimeError;
use crate::files;
use crate::train::Settings;

/// Version of the format.
const FORMAT: u32 = 1;

/// What `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version.
    pub format: u32,
    /// Steps made.
    pub step: u64,
    /// Samples consumed.
    pub samples: u64,
    /// Seed.
    pub seed: u32,
    /// SHA-256 of each file.
    pub files: BTreeMap<String, String>,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// SHA-256 of everything above.
    #[serde(default)]
    pub seal: String,
}

impl Manifest {
    fn sealed(mut self) -> Result<Self, RuntimeError> {
        self.seal = String::new();
        let text = serde_json::to_vec(&self)
            .map_err(|e| RuntimeError::Settings(format!("checkpoint manifest: {e}")))?;
        self.seal = hex(&Sha256::digest(&text));
        Ok(self)
    }
}

/// One whole tensor of a checkpoint: its name, and what it is of the plan.
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Published shape.
    pub shape: Vec<u64>,
    /// `params`, `adam_m` or `adam_v`.
    pub segment: &'static str,
    /// Number of the parameter in the plan's table.
    pub parameter: usize,
    /// Layer, where the parameter is a stack.
    pub layer: u64,
}

impl Tensor {
    /// Bytes of the whole tensor.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<u64>() as usize * 4
    }
}

fn tensors(plan: &Plan, kinds: &[(&'static str, &str)]) -> Vec<Tensor> {
    let mut out = vec![];
    for (segment, prefix) in kinds {
        for (parameter, p) in plan.tables.parameters.iter().enumerate() {
            for (layer, name) in p.names().into_iter().enumerate() {
                out.push(Tensor {
                    name: format!("{prefix}{name}"),
                    shape: p.shape.clone(),
                    segment,
                    parameter,
                    layer: layer as u64,
                });
            }
        }
    }
    out
}

const MODEL: &[(&str, &str)] = &[("params", "")];
const OPTIMIZER: &[(&str, &str)] = &[("adam_m", "exp_avg."), ("adam_v", "exp_avg_sq.")];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of a whole tensor, borrowed where they lie together.
pub type Source<'a> = &'a dyn Fn(&Tensor) -> Cow<'a, [u8]>;
/// Takes the bytes of a whole tensor.
pub type Sink<'a> = &'a mut dyn FnMut(&Tensor, &[u8]);

/// Writes a safetensors file tensor by tensor; gives its hash.
fn write_tensors(path: &Path, list: &[Tensor], get: Source<'_>) -> Result<String, RuntimeError> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for t in list {
        let end = at + t.bytes();
        let entry =
            serde_json::json!({ "dtype": "F32", "shape": t.shape, "data_offsets": [at, end] });
        header.insert(t.name.clone(), entry);
        at = end;
    }
    let mut text = serde_json::to_vec(&header)
        .map_err(|e| RuntimeError::Settings(format!("checkpoint header: {e}")))?;
    // The format wants tensors to start at a multiple of eight bytes.
    text.resize(text.len().div_ceil(8) * 8, b' ');
    let mut hash = Sha256::new();
    let mut file = File::create(path).map_err(RuntimeError::io("make", path))?;
    let mut put = |bytes: &[u8]| -> Result<(), RuntimeError> {
        hash.update(bytes);
        file.write_all(bytes).map_err(RuntimeError::io("write", path))
    };
    put(&(text.len() as u64).to_le_bytes())?;
    put(&text)?;
    for t in list {
        put(&get(t))?;
    }
    file.sync_all().map_err(RuntimeError::io("sync", path))?;
    Ok(hex(&hash.finalize()))
}

/// Saves under `folder`; `get` reads whole tensors. Gives the new folder.
pub fn save(
    folder: &Path,
    plan: &Plan,
    settings: &Settings,
    step: u64,
    samples: u64,
    get: Source<'_>,
) -> Result<PathBuf, RuntimeError> {
    let name = format!("global_step{step}");
    let target = folder.join(&name);
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir_all(&temporary).map_err(RuntimeError::io("make", &temporary))?;
    let mut hashes = BTreeMap::new();
    for (file, kinds) in [("model.safetensors", MODEL), ("optimizer.safetensors", OPTIMIZER)] {
        let hash = write_tensors(&temporary.join(file), &tensors(plan, kinds), get)?;
        hashes.insert(file.to_string(), hash);
    }
    let manifest = Manifest {
        format: FORMAT,
        step,
        samples,
        seed: settings.seed,
        files: hashes,
        config: plan.tables.config.clone(),
        seal: String::new(),
    };
    let text = serde_json::to_vec_pretty(&manifest.sealed()?)
        .map_err(|e| RuntimeError::Settings(format!("checkpoint manifest: {e}")))?;
    files::write_bytes(&temporary.join("manifest.json"), &text)?;
    files::sync_folder(&temporary)?;
    if target.exists() {
        let old = folder.join(format!(".{name}.{}.old", std::process::id()));
        fs::rename(&target, &old).map_err(RuntimeError::io("rename", &target))?;
        fs::rename(&temporary, &target).map_err(RuntimeError::io("rename", &target))?;
        let _ = fs::remove_dir_all(&old);
    } else {
        fs::rename(&temporary, &target).map_err(RuntimeError::io("rename", &target))?;
    }
    files::sync_folder(folder)?;
    files::write_bytes(&folder.join("latest"), name.as_bytes())?;
    Ok(target)
}

/// The newest complete checkpoint under `folder`.
pub fn latest(folder: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(folder.join("latest")).ok()?;
    let path = folder.join(name.trim());
    (name.trim().starts_with("global_step") && path.join("manifest.json").is_file()).then_some(path)
}

/// Keeps the `keep` newest checkpoints.
pub fn prune(folder: &Path, keep: usize) -> Result<(), RuntimeError> {
    let mut steps: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .map_err(RuntimeError::io("read", folder))?
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            Some((name.strip_prefix("global_step")?.parse().ok()?, e.path()))
        })
        .collect();
    steps.sort();
    let surplus = steps.len().saturating_sub(keep.max(1));
    for (_, path) in &steps[..surplus] {
        fs::remove_dir_all(path).map_err(RuntimeError::io("remove", path))?;
    }
    Ok(())
}

/// Reads and verifies a checkpoint's manifest.
pub fn manifest(folder: &Path) -> Result<Manifest, RuntimeError> {
    let path = folder.join("manifest.json");
    let text = fs::read(&path).map_err(RuntimeError::io("read", &path))?;
    let m: Manifest = serde_json::from_slice(&text)
        .map_err(|e| RuntimeError::checkpoint(&path, format!("is not a manifest: {e}")))?;
    if m.format != FORMAT {
        return Err(RuntimeError::checkpoint(
            &path,
            format!("has format {}, not {FORMAT}", m.format),
        ));
    }
    if m.clone().sealed()?.seal != m.seal {
        return Err(RuntimeError::checkpoint(&path, "was changed after it was written"));
    }
    Ok(m)
}

fn verify(folder: &Path, m: &Manifest, file: &str) -> Result<memmap2::Mmap, RuntimeError> {
    let path = folder.join(file);
    let mut f = File::open(&path).map_err(RuntimeError::io("open", &path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = f.read(&mut buffer).map_err(RuntimeError::io("read", &path))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    if m.files.get(file) != Some(&hex(&hash.finalize())) {
        return Err(RuntimeError::checkpoint(&path, "is damaged: its hash is not the manifest's"));
    }
    // SAFETY: mapped read-only; a checkpoint is never changed in place.
    unsafe { memmap2::Mmap::map(&f) }.map_err(RuntimeError::io("map", &path))
}

/// Loads parameters and optimizer state; `put` takes whole tensors.
pub fn load(folder: &Path, plan: &Plan, put: Sink<'_>) -> Result<Manifest, RuntimeError> {
    let m = manifest(folder)?;
    let maps = [
        (verify(folder, &m, "model.safetensors")?, "model.safetensors", MODEL),
        (verify(folder, &m, "optimizer.safetensors")?, "optimizer.safetensors", OPTIMIZER),
    ];
    // Everything is checked before anything is written.
    for (map, file, kinds) in &maps {
        check(&folder.join(file), map, &tensors(plan, kinds))?;
    }
    for (map, file, kinds) in &maps {
        copy(&folder.join(file), map, &tensors(plan, kinds), put)?;
    }
    Ok(m)
}

/// Loads parameters only.
pub fn load_model(folder: &Path, plan: &Plan, put: Sink<'_>) -> Result<Manifest, RuntimeError> {
    let m = manifest(folder)?;
    let path = folder.join("model.safetensors");
    let map = verify(folder, &m, "model.safetensors")?;
    let list = tensors(plan, MODEL);
    check(&path, &map, &list)?;
    copy(&path, &map, &list, put)?;
    Ok(m)
}

fn parse<'a>(path: &Path, map: &'a [u8]) -> Result<safetensors::SafeTensors<'a>, RuntimeError> {
    safetensors::SafeTensors::deserialize(map)
        .map_err(|e| RuntimeError::checkpoint(path, format!("is not a safetensors file: {e}")))
}

fn check(path: &Path, map: &[u8], list: &[Tensor]) -> Result<(), RuntimeError> {
    let st = parse(path, map)?;
    for t in list {
        let view = st.tensor(&t.name).map_err(|_| {
            RuntimeError::checkpoint(
                path,
                format!("belongs to another model: it has no {}", t.name),
            )
        })?;
        let shape: Vec<u64> = view.shape().iter().map(|s| *s as u64).collect();
        if shape != t.shape || view.dtype() != safetensors::Dtype::F32 {
            return Err(RuntimeError::checkpoint(
                path,
                format!(
                    "belongs to another model: {} is {shape:?}, the plan has {:?}",
                    t.name, t.shape
                ),
            ));
        }
    }
    if st.len() != list.len() {
        return Err(RuntimeError::checkpoint(
            path,
            "belongs to another model: it has more tensors",
        ));
    }
    Ok(())
}

fn copy(path: &Path, map: &[u8], list: &[Tensor], put: Sink<'_>) -> Result<(), RuntimeError> {
    let st = parse(path, map)?;
    for t in list {
        if let Ok(view) = st.tensor(&t.name) {
            put(t, view.data());
        }
    }
    Ok(())
}
