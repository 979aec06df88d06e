//! Weights in safetensors: one file, or several shards that `model.safetensors.index.json` names.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use neoxc_base::read;
use safetensors::tensor::{Dtype, Metadata, TensorView};
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{bad, reading, refused};
use crate::Failure;

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Where one tensor is.
struct Found {
    file: PathBuf,
    dtype: Dtype,
    shape: Vec<u64>,
    /// First byte in the file, and how many.
    at: (u64, usize),
}

/// The tensors of a folder, by name.
pub struct Shards(BTreeMap<String, Found>);

/// The `weight_map` of an index, with names that come twice.
#[derive(serde::Deserialize)]
struct Index {
    #[serde(deserialize_with = "pairs")]
    weight_map: Vec<(String, String)>,
}

/// A JSON object as pairs: a map would keep one of two values of a name.
fn pairs<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(String, String)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("names of tensors with names of files")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = vec![];
            while let Some(pair) = map.next_entry()? {
                out.push(pair);
            }
            Ok(out)
        }
    }
    d.deserialize_map(Pairs)
}

impl Shards {
    /// Finds the weights of a folder, and reads what tensors its files have.
    pub fn open(dir: &Path) -> Result<Shards, Failure> {
        if dir.join(WHOLE).exists() {
            let path = dir.join(WHOLE);
            let mut all = BTreeMap::new();
            for (name, found) in tensors(&path)? {
                all.insert(name, found);
            }
            return Ok(Shards(all));
        }
        if dir.join(INDEX).exists() {
            return Self::of_index(dir);
        }
        Err(other_files(dir))
    }

    fn of_index(dir: &Path) -> Result<Shards, Failure> {
        let path = dir.join(INDEX);
        let text = read::bytes(&path, read::TABLES).map_err(reading(&path))?;
        let index: Index = serde_json::from_slice(&text).map_err(|e| bad(&path, e))?;
        let mut wanted: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (name, file) in &index.weight_map {
            if let Some(other) = seen.insert(name, file) {
                let what = format!("`weight_map` has {name} twice, in {other} and in {file}");
                return Err(bad(&path, what));
            }
            let inside =
                Path::new(file).components().count() == 1 && Path::new(file).file_name().is_some();
            if !inside {
                return Err(bad(&path, format!("{file:?} is not a file of this folder")));
            }
            wanted.entry(file).or_default().insert(name, false);
        }
        let mut all = BTreeMap::new();
        for (file, mut names) in wanted {
            let shard = dir.join(file);
            if !shard.exists() {
                let (name, _) = names.first_key_value().unwrap_or((&"", &false));
                return Err(bad(&path, format!("{file}, which has {name}, is missing")));
            }
            for (name, found) in tensors(&shard)? {
                match names.get_mut(name.as_str()) {
                    Some(there) => *there = true,
                    None => {
                        let what = match seen.get(&name) {
                            Some(other) => format!("{name}, which the index says is in {other}"),
                            None => format!("{name}, which the index does not have"),
                        };
                        return Err(bad(&shard, format!("has {what}")));
                    }
                }
                all.insert(name, found);
            }
            if let Some((name, _)) = names.iter().find(|(_, there)| !**there) {
                return Err(bad(&shard, format!("has no {name}, which the index says it has")));
            }
        }
        Ok(Shards(all))
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.0.get(name).map(|f| f.shape.as_slice())
    }

    /// A tensor as f32, little-endian.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let found = self.0.get(name);
        let found = found.ok_or_else(|| bad(Path::new(name), "is in no file of the folder"))?;
        let path = &found.file;
        let mut file = read::open(path).map_err(reading(path))?;
        let mut bytes = vec![0; found.at.1];
        file.seek(SeekFrom::Start(found.at.0)).map_err(reading(path))?;
        file.read_exact(&mut bytes).map_err(reading(path))?;
        let pairs = || bytes.chunks_exact(2).map(|c| [c[0], c[1]]);
        Ok(match found.dtype {
            Dtype::F32 => bytes,
            Dtype::BF16 => {
                pairs().flat_map(|c| half::bf16::from_le_bytes(c).to_f32().to_le_bytes()).collect()
            }
            Dtype::F16 => {
                pairs().flat_map(|c| half::f16::from_le_bytes(c).to_f32().to_le_bytes()).collect()
            }
            other => {
                return Err(bad(path, format!("{name} has dtype {other:?}, not f32, bf16 or f16")));
            }
        })
    }
}

/// The tensors of one file.
fn tensors(path: &Path) -> Result<Vec<(String, Found)>, Failure> {
    let mut file = read::open(path).map_err(reading(path))?;
    let size = file.metadata().map_err(reading(path))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(reading(path))?;
    let length = u64::from_le_bytes(length);
    if length > size.saturating_sub(8) || length > read::TABLES {
        return Err(bad(path, "is shorter than its header says"));
    }
    let mut head = vec![0; length as usize];
    file.read_exact(&mut head).map_err(reading(path))?;
    // Reading it checks that tensors lie one behind the other.
    let metadata: Metadata = serde_json::from_slice(&head).map_err(|e| bad(path, e))?;
    let mut out = vec![];
    for (name, info) in metadata.tensors() {
        let (from, to) = info.data_offsets;
        let first = 8 + length + from as u64;
        if first + (to - from) as u64 > size {
            return Err(bad(path, format!("ends before {name} does")));
        }
        let shape = info.shape.iter().map(|n| *n as u64).collect();
        let at = (first, to - from);
        out.push((name, Found { file: path.to_path_buf(), dtype: info.dtype, shape, at }));
    }
    Ok(out)
}

/// What to say of a folder without safetensors.
fn other_files(dir: &Path) -> Failure {
    for name in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        if dir.join(name).exists() {
            let hint = "load the folder with transformers and save it with `model.save_pretrained(…)`, which \
                        writes model.safetensors";
            let what = "is a pickle, which runs code when it is read: only safetensors are read";
            return refused(&dir.join(name), what, hint);
        }
    }
    bad(dir, format!("has neither {WHOLE} nor {INDEX}"))
}

/// A tensor to be written.
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size, bytes.
    pub bytes: usize,
}

/// Divides tensors, in their order, into files of at most `most` bytes of values, or of one tensor.
pub fn divide(tensors: Vec<Tensor>, most: usize) -> Vec<Vec<Tensor>> {
    let mut out: Vec<(usize, Vec<Tensor>)> = vec![];
    for t in tensors {
        match out.last_mut() {
            Some((sum, list)) if *sum + t.bytes <= most => {
                *sum += t.bytes;
                list.push(t);
            }
            _ => out.push((t.bytes, vec![t])),
        }
    }
    out.into_iter().map(|(_, list)| list).collect()
}

/// Writes files of tensors, whose bytes `get` gives, and the index if they are several.
pub fn write(
    dir: &Path,
    files: &[Vec<Tensor>],
    dtype: Dtype,
    get: &mut dyn FnMut(&str) -> Result<Vec<u8>, Failure>,
) -> Result<(), Failure> {
    let mut map = serde_json::Map::new();
    let mut total = 0;
    for (n, list) in files.iter().enumerate() {
        let name = match files.len() {
            1 => WHOLE.to_string(),
            all => format!("model-{:05}-of-{all:05}.safetensors", n + 1),
        };
        let path = dir.join(&name);
        let mut data = vec![];
        for t in list {
            data.push(get(&t.name)?);
            total += t.bytes;
            map.insert(t.name.clone(), name.clone().into());
        }
        let mut views = vec![];
        for (t, bytes) in list.iter().zip(&data) {
            let view = TensorView::new(dtype, t.shape.clone(), bytes).map_err(|e| bad(&path, e))?;
            views.push((t.name.clone(), view));
        }
        let format = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
        let file = safetensors::serialize(views, Some(format)).map_err(|e| bad(&path, e))?;
        neoxc_runtime::files::write_bytes(&path, &file)?;
    }
    if files.len() > 1 {
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
        let text = serde_json::to_vec_pretty(&index).map_err(|e| bad(dir, e))?;
        neoxc_runtime::files::write_bytes(&dir.join(INDEX), &text)?;
    }
    Ok(())
}
