//! Damaged entries of the kernel cache: an entry is what was kept, or it is none. `NEOXC_FUZZ=N` (make fuzz) damages N.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::PathBuf;

use neoxc_codegen::x86::Cache;

/// Random numbers that are others in every run; a failure prints the first.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

/// Every file below a folder.
fn files(folder: &std::path::Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(folder).unwrap().flatten() {
        match e.path() {
            path if path.is_dir() => files(&path, out),
            path => out.push(path),
        }
    }
}

/// Changes a few places of `bytes`, or all.
fn damage(bytes: &mut Vec<u8>, r: &mut Random) {
    for _ in 0..=r.next(3) {
        if bytes.is_empty() {
            return bytes.extend(std::iter::repeat_n(0, r.next(80)));
        }
        let at = r.next(bytes.len());
        match r.next(6) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << r.next(8),
            2 => bytes.insert(at, r.next(256) as u8),
            3 => drop(bytes.remove(at)),
            4 => bytes.extend_from_within(at..),
            _ => bytes.rotate_left(at),
        }
    }
}

#[test]
fn an_entry_is_what_was_kept_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), "a machine");
    let keys: Vec<String> = ["one", "two"].map(|k| cache.key([k])).into();
    let payloads = [vec![1u8; 100], (0..=255).collect()];
    let mut entries = vec![];
    for (key, payload) in keys.iter().zip(&payloads) {
        assert_eq!(cache.get(key), None);
        cache.keep(key, payload).unwrap();
        assert_eq!(cache.get(key).as_ref(), Some(payload));
        let mut all = vec![];
        files(folder.path(), &mut all);
        all.retain(|p| entries.iter().all(|(known, _)| known != p));
        assert_eq!(all.len(), 1);
        entries.push((all[0].clone(), std::fs::read(&all[0]).unwrap()));
    }
    let count: u64 = std::env::var("NEOXC_FUZZ").map_or(1_000, |n| n.parse().unwrap());
    let first = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    let (mut r, mut refused) = (Random(first), 0u64);
    for _ in 0..count {
        let (path, whole) = &entries[0];
        let mut bytes = whole.clone();
        damage(&mut bytes, &mut r);
        std::fs::write(path, &bytes).unwrap();
        let got = cache.get(&keys[0]);
        assert!(got.is_none() || bytes == *whole, "{first}: {bytes:?}");
        refused += u64::from(got.is_none());
    }
    assert!(refused > count / 2, "{refused} of {count}");
    eprintln!("{refused} of {count} damaged entries are none");
    // What is no file is none, and is not waited for.
    let path = &entries[0].0;
    std::fs::remove_file(path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    assert_eq!(cache.get(&keys[0]), None);
}
