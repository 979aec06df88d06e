//! `neoxc inspect checkpoint`: the tree of tensors, or how two checkpoints differ.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use neoxc_runtime::RuntimeError;
use neoxc_runtime::checkpoint::{Reader, hash};

use super::checkpoint::open;
use crate::Failure;
use crate::cli::Inspect;

/// Runs the command.
pub fn run(a: &Inspect) -> Result<(), Failure> {
    let Inspect::Checkpoint { dir, diff } = a;
    let text = match diff {
        None => tree(dir)?,
        Some(other) => differences(dir, other)?,
    };
    print!("{text}");
    Ok(())
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes.chunks_exact(4).map(|c| f64::from(f32::from_le_bytes([c[0], c[1], c[2], c[3]])))
}

fn head(dir: &Path, reader: &Reader) -> String {
    let m = &reader.manifest;
    let ranks: Vec<String> =
        m.world.iter().filter(|(_, n)| *n > 1).map(|(axis, n)| format!("{n} {axis}")).collect();
    let world = if ranks.is_empty() { "one rank".into() } else { ranks.join(" × ") + " ranks" };
    format!(
        "{}: step {}, {} samples, seed {}, {} tensors in {} files, written on {world}\n",
        dir.display(),
        m.step,
        m.samples,
        m.seed,
        m.tensors.len(),
        m.files.len()
    )
}

fn tree(dir: &Path) -> Result<String, RuntimeError> {
    let (reader, _) = open(dir)?;
    let mut out = head(dir, &reader);
    let mut before: Vec<&str> = vec![];
    let mut whole = vec![];
    for (name, entry) in &reader.manifest.tensors {
        let parts: Vec<&str> = name.split('.').collect();
        let same = before.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        for (depth, part) in parts.iter().enumerate().take(parts.len() - 1).skip(same) {
            let _ = writeln!(out, "{:1$}{part}", "", 2 * depth);
        }
        reader.read(name, &mut whole)?;
        let norm = floats(&whole).map(|x| x * x).sum::<f64>().sqrt();
        let label = format!("{:1$}{2}", "", 2 * (parts.len() - 1), parts.last().unwrap_or(&""));
        let shape = format!("{:?}", entry.shape);
        let _ =
            writeln!(out, "{label:<24} {shape:<20} norm {norm:<12.6} hash {:.12}", hash(&whole));
        before = parts;
    }
    Ok(out)
}

fn differences(a: &Path, b: &Path) -> Result<String, RuntimeError> {
    let ((left, _), (right, _)) = (open(a)?, open(b)?);
    let mut out = head(a, &left) + &head(b, &right);
    let names = |r: &Reader| r.manifest.tensors.keys().cloned().collect::<BTreeSet<String>>();
    let (mut equal, mut x, mut y) = (0, vec![], vec![]);
    for name in names(&left).union(&names(&right)) {
        let (Some(p), Some(q)) = (left.entry(name), right.entry(name)) else {
            let only = if left.entry(name).is_some() { a } else { b };
            let _ = writeln!(out, "{name}: only in {}", only.display());
            continue;
        };
        if p.shape != q.shape {
            let _ = writeln!(out, "{name}: differs in shape, {:?} and {:?}", p.shape, q.shape);
            continue;
        }
        left.read(name, &mut x)?;
        right.read(name, &mut y)?;
        if x == y {
            equal += 1;
            continue;
        }
        let pairs = || floats(&x).zip(floats(&y));
        let count = pairs().filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        let most = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let far = pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
        let norm = |x: &[u8]| floats(x).map(|x| x * x).sum::<f64>().sqrt();
        // The larger norm, as either may be zero; both are where only signs of zeros differ.
        let share = if far == 0.0 { 0.0 } else { far / norm(&x).max(norm(&y)) };
        let _ = writeln!(
            out,
            "{name}: differs in {count} of {} elements, by {most:.3e} at most, {share:.3e} of the larger norm",
            x.len() / 4,
        );
    }
    let _ = writeln!(out, "{equal} tensors are equal to the bit");
    Ok(out)
}
