//! Writing and opening plans. What is written appears whole or not at all; what is opened was
//! written so, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use neoxc_base::read;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    FORMAT, Plan, PlanError, Program, Tables, parse_program, print_program, replace, validate,
};

#[derive(Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, Entry>,
}

/// The manifest with its own hash, so that no byte of it can change unnoticed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sealed {
    manifest: Manifest,
    sha256: String,
}

impl Sealed {
    /// Whether `text`, of which this was read, is what was written once: the seal is right, and no byte was added.
    pub(crate) fn is_whole(&self, text: &[u8]) -> bool {
        let sealed = json(&self.manifest).is_ok_and(|m| hash(&m) == self.sha256);
        sealed && json(self).is_ok_and(|whole| whole == text)
    }

    /// Whether the plan has a file of this name.
    pub(crate) fn lists(&self, name: &str) -> bool {
        self.manifest.files.contains_key(name)
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, PlanError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| PlanError::Invalid(format!("cannot be written as JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}

/// Largest file of a plan that is read.
const MAX_FILE: u64 = 16 << 30;

impl Plan {
    fn names(&self) -> (Vec<String>, Vec<String>) {
        let t = &self.tables;
        (
            t.segments.iter().map(|s| s.name.clone()).collect(),
            t.kernels.iter().map(|k| k.name.clone()).collect(),
        )
    }

    /// The text of a program.
    pub fn disassemble(&self, program: &Program) -> String {
        let (segments, kernels) = self.names();
        print_program(&program.body, &segments, &kernels)
    }

    /// Every file of the plan.
    fn contents(&self) -> Result<BTreeMap<String, Vec<u8>>, PlanError> {
        let mut files: BTreeMap<String, Vec<u8>> = self.files.clone();
        let mut tables = self.tables.clone();
        tables.ports = self
            .programs
            .iter()
            .map(|p| (p.name.clone(), (p.inputs.clone(), p.outputs.clone())))
            .collect();
        files.insert("plan.json".into(), json(&tables)?);
        files.insert("consts.bin".into(), self.consts.clone());
        for p in &self.programs {
            files.insert(format!("programs/{}.txt", p.name), self.disassemble(p).into_bytes());
        }
        let manifest = Manifest {
            format: FORMAT,
            files: files
                .iter()
                .map(|(n, b)| (n.clone(), Entry { bytes: b.len() as u64, sha256: hash(b) }))
                .collect(),
        };
        let seal = hash(&json(&manifest)?);
        files.insert("manifest.json".into(), json(&Sealed { manifest, sha256: seal })?);
        Ok(files)
    }

    /// A hash of all that is in the plan, wherever it lies.
    pub fn digest(&self) -> Result<String, PlanError> {
        Ok(self.contents()?.get("manifest.json").map(|text| hash(text)).unwrap_or_default())
    }

    /// Writes the plan to `folder`, in place of an older plan but of nothing else.
    ///
    /// # Errors
    /// The plan is inconsistent, something else has the name, or the folder cannot be written: it is as it was.
    pub fn write(&self, folder: &Path) -> Result<(), PlanError> {
        self.check()?;
        replace::write(folder, &self.contents()?)
    }

    /// Opens and verifies the plan in `folder`.
    pub fn open(folder: &Path) -> Result<Plan, PlanError> {
        let damaged =
            |name: &str, message: String| PlanError::Damaged { path: folder.join(name), message };
        let read = |name: &str, most: u64| -> Result<Vec<u8>, PlanError> {
            let path = folder.join(name);
            read::bytes(&path, most).map_err(|source| PlanError::Io {
                action: "read",
                path,
                source,
            })
        };
        let text = read("manifest.json", read::SETTINGS)?;
        let sealed: Sealed = serde_json::from_slice(&text)
            .map_err(|e| damaged("manifest.json", format!("is not a manifest: {e}")))?;
        if sealed.manifest.format != FORMAT {
            let found = sealed.manifest.format;
            let message = format!("has format {found}; this program reads format {FORMAT}");
            return Err(damaged("manifest.json", message));
        }
        if !sealed.is_whole(&text) {
            return Err(damaged("manifest.json", "was changed after it was written".into()));
        }
        let mut files = BTreeMap::new();
        for (name, entry) in &sealed.manifest.files {
            let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
            if !plain {
                return Err(damaged("manifest.json", format!("names {name:?}, outside the plan")));
            }
            let path = folder.join(name);
            let size = fs::metadata(&path)
                .map_err(|source| PlanError::Io { action: "read", path, source })?
                .len();
            if size != entry.bytes {
                return Err(damaged(
                    name,
                    format!("has {size} bytes, {} were written", entry.bytes),
                ));
            }
            let bytes = read(name, entry.bytes.min(MAX_FILE))?;
            if hash(&bytes) != entry.sha256 {
                return Err(damaged(name, "was changed after it was written".into()));
            }
            files.insert(name.clone(), bytes);
        }
        let mut take = |name: &str| {
            files.remove(name).ok_or_else(|| damaged(name, "is missing from the manifest".into()))
        };
        let tables: Tables = serde_json::from_slice(&take("plan.json")?)
            .map_err(|e| damaged("plan.json", e.to_string()))?;
        let consts = take("consts.bin")?;
        let mut plan = Plan { tables, programs: vec![], consts, files: BTreeMap::new() };
        let (segments, kernels) = plan.names();
        for (name, (inputs, outputs)) in plan.tables.ports.clone() {
            let file = format!("programs/{name}.txt");
            let text = String::from_utf8(take(&file)?)
                .map_err(|_| damaged(&file, "is not text".into()))?;
            let body = parse_program(&text, &segments, &kernels)
                .map_err(|e| damaged(&file, e.to_string()))?;
            plan.programs.push(Program { name, inputs, outputs, body });
        }
        plan.files = files;
        validate::validate(&plan)?;
        Ok(plan)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::{Address, Instr, Kernel, Segment, SegmentKind};

    /// A small plan.
    pub(crate) fn sample() -> Plan {
        let kernel = Kernel {
            name: "k".into(),
            family: "rowwise".into(),
            tasks: 3,
            scratch: 0,
            args: vec![16, 16],
            operands: 1,
            loc: "a.yml:1:2".into(),
            ..Kernel::default()
        };
        let a = |offset| Address {
            segment: 0,
            offset,
            strides: vec![crate::Stride { depth: 0, bytes: 64, next: true }],
        };
        let launch = Instr::Launch { kernel: 0, args: vec![a(0), a(16)], loc: "a.yml:1:2".into() };
        let body =
            vec![Instr::Loop { var: "layer".into(), count: 3, reverse: true, body: vec![launch] }];
        Plan {
            tables: Tables {
                segments: vec![
                    Segment {
                        name: "arena".into(),
                        kind: SegmentKind::Arena,
                        bytes: vec![192],
                        within: None,
                    },
                    Segment {
                        name: "consts".into(),
                        kind: SegmentKind::Consts,
                        bytes: vec![4],
                        within: None,
                    },
                ],
                kernels: vec![kernel],
                ports: [("eval_step".to_string(), (vec![], vec![]))].into(),
                ..Tables::default()
            },
            programs: vec![Program { name: "eval_step".into(), body, ..Program::default() }],
            consts: vec![1, 2, 3, 4],
            files: [("kernels/x.so".to_string(), vec![7; 100])].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::sample;
    use super::*;
    use crate::{Segment, SegmentKind};

    #[test]
    fn plans_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("p");
        sample().write(&at).unwrap();
        assert_eq!(Plan::open(&at).unwrap(), sample());
        sample().write(&at).unwrap();
        assert!(matches!(sample().write(folder.path()), Err(PlanError::NotAPlan(..))));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("p");
        sample().write(&at).unwrap();
        for name in
            ["manifest.json", "plan.json", "consts.bin", "programs/eval_step.txt", "kernels/x.so"]
        {
            let path = at.join(name);
            let whole = fs::read(&path).unwrap();
            for i in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[i] ^= 1 << (i % 8);
                fs::write(&path, &bytes).unwrap();
                let e = Plan::open(&at).expect_err(&format!("{name} byte {i}"));
                let told = e.to_string();
                assert!(told.contains(name) || name == "manifest.json", "{told}");
            }
            fs::write(&path, &whole[..whole.len() - 1]).unwrap();
            assert!(Plan::open(&at).is_err());
            fs::write(&path, &whole).unwrap();
        }
        assert!(Plan::open(&at).is_ok());
    }

    #[test]
    fn addresses_outside_their_segment_are_refused() {
        let mut plan = sample();
        plan.tables.segments[0].bytes = vec![191 - 64 + 16];
        assert!(matches!(validate::validate(&plan), Err(PlanError::Invalid(_))));
    }

    #[test]
    fn a_part_of_a_segment_lies_within_it() {
        let mut plan = sample();
        let mut part = |segment, offset, bytes| {
            let within = Some((segment, offset));
            plan.tables.segments.truncate(2);
            plan.tables.segments.push(Segment {
                name: "grads".into(),
                kind: SegmentKind::Gradients,
                bytes: vec![bytes],
                within,
            });
            validate::validate(&plan).map_err(|e| e.to_string())
        };
        assert_eq!(part(0, 64, 128), Ok(()));
        // Behind the end; a sum that does not fit; in itself; in nothing.
        for (segment, offset, bytes) in [(0, 64, 129), (0, u64::MAX, 2), (2, 0, 64), (9, 0, 64)] {
            let told = part(segment, offset, bytes).unwrap_err();
            assert!(told.contains("leaves it"), "{told}");
        }
        // Only gradients, and only of the arena.
        assert!(part(1, 0, 4).is_err());
        plan.tables.segments[2].within = Some((0, 64));
        assert_eq!(validate::validate(&plan).map_err(|e| e.to_string()), Ok(()));
        plan.tables.segments[2].kind = SegmentKind::Weights;
        assert!(validate::validate(&plan).is_err());
        assert_eq!((plan.allocation(2), plan.allocation(1)), ((0, 64), (1, 0)));
        assert_eq!(plan.allocated_bytes(&plan.tables.segments[2], 0), 0);
    }
}
