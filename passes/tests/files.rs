//! File tests of passes: `passes/tests/files/PASS/NAME.mlir` holds a small module, the pass to run on it with its
//! settings, and what comes out, as an outline.
//!
//! ```text
//! // A sentence or two on what this shows.
//! // RUN: cut-stages pipe=2 schedule=1f1b
//! !x = tensor<4xf32, {dims = ["seq"]}>
//! module { … }
//! // EXPECT:
//! //   @f(%x [seq 4]) …
//! ```
//! Instead of `EXPECT`, `// FAILS: text` asks for an error with that text in it. `// SHOW: @f @g` limits the outline to
//! these functions. `NEOXC_BLESS=1` writes what comes out into the files: read it before it is committed.
//!
//! Functions that have the same signature before and after are evaluated on random inputs by the reference evaluator,
//! and must give the same: to 1e-9, or `// TOLERANCE: 1e-2`. Programs of several ranks run on all of them, with shards as
//! their parameters' layouts say. Where no function has the same signature, `// UNEVALUATED: why` says so.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::fmt::Write;
use std::path::{Path, PathBuf};

use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::eval_ranks::run_ranks;
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, DType, Function, Module, TensorType, keys, text, verify};
use neoxc_passes::PassCx;
use neoxc_passes::pipeline::{PASSES, find, run_pass};

const EXPECT: &str = "// EXPECT:\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files")
}

/// What stands behind `// KEY:` in the header.
fn header<'a>(source: &'a str, key: &str) -> Option<&'a str> {
    let prefix = format!("// {key}: ");
    source.lines().find_map(|l| l.strip_prefix(&prefix)).map(str::trim)
}

fn shape(ty: &TensorType) -> String {
    let dims: Vec<String> = ty.dims.iter().map(|d| format!("{} {}", d.name, d.size)).collect();
    let dtype = if ty.dtype == DType::F32 { "" } else { ty.dtype.name() };
    format!("{dtype}[{}]", dims.join(", "))
}

/// Attributes without the dialect's prefix, and without what every pass notes.
fn attributes(attrs: &Attrs) -> String {
    let noted = [keys::SETTINGS, keys::AFTER];
    let shown = attrs.0.iter().filter(|(k, _)| !noted.contains(&k.as_str()));
    let shown: Vec<String> = shown
        .map(|(k, v)| match (k.strip_prefix("neox.").unwrap_or(k), v) {
            (k, Attr::Unit) => k.to_string(),
            (k, Attr::Float(x)) => format!("{k} = {x:?}"),
            (k, v) => format!("{k} = {v}"),
        })
        .collect();
    if shown.is_empty() { String::new() } else { format!(" {{{}}}", shown.join(", ")) }
}

/// A module in few words: an op a line, types as named dims.
fn outline(m: &Module, show: Option<&str>) -> String {
    let mut out = String::new();
    let head = attributes(&m.attrs);
    if show.is_none() && !head.is_empty() {
        let _ = writeln!(out, "module{head}");
    }
    let wanted = |f: &&Function| {
        show.is_none_or(|s| s.split(' ').any(|n| n.strip_prefix('@') == Some(&f.name)))
    };
    for f in m.functions.iter().filter(wanted) {
        let mut names = vec![String::new(); f.values.len()];
        for (i, p) in f.params.iter().enumerate() {
            let name = f.values[p.index()].name.as_deref().map(str::to_string);
            names[p.index()] = format!("%{}", name.unwrap_or(format!("arg{i}")));
        }
        let params: Vec<String> = (f.params.iter().zip(&f.param_attrs))
            .map(|(p, a)| format!("{} {}{}", names[p.index()], shape(f.ty(*p)), attributes(a)))
            .collect();
        let _ = writeln!(out, "@{}({}){}", f.name, params.join(", "), attributes(&f.attrs));
        for (n, op) in f.ops.iter().enumerate() {
            for (i, r) in op.results.iter().enumerate() {
                let one = op.results.len() == 1;
                names[r.index()] = if one { format!("%{n}") } else { format!("%{n}#{i}") };
            }
            let operands: Vec<&str> = op.operands.iter().map(|o| &*names[o.index()]).collect();
            let types: Vec<String> = op.results.iter().map(|r| shape(f.ty(*r))).collect();
            let (name, attrs) = (op.kind.name(), attributes(&op.attrs));
            let (operands, types) = (operands.join(", "), types.join(", "));
            let _ = writeln!(out, "  %{n} = {name}({operands}){attrs} {types}");
        }
        let results: Vec<&str> = f.results.iter().map(|r| &*names[r.index()]).collect();
        let _ = writeln!(out, "  return {}", results.join(", "));
    }
    out
}

/// Small numbers, different for each operand; integers are 0 or 1, as ids of a vocabulary of two.
fn inputs(f: &Function) -> Vec<Tensor> {
    let mut state = 7u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 40) as f64 / f64::from(1u32 << 24)
    };
    let one = |p: &neoxc_ir::ValueId| {
        let ty = f.ty(*p).clone();
        let whole = ty.dtype == DType::I32;
        let x = Tensor::from_fn(ty, |_| if whole { (next() * 2.0).floor() } else { 0.1 + next() });
        x.rounded()
    };
    f.params.iter().map(one).collect()
}

/// The axes of a module's mesh, where it has several ranks.
fn mesh(m: &Module) -> Vec<(String, usize)> {
    let axes = m.attrs.strs(keys::MESH).unwrap_or_default();
    let parse = |a: &str| a.split_once('=').map(|(n, s)| (n.to_string(), s.parse().unwrap()));
    let axes: Vec<(String, usize)> = axes.into_iter().filter_map(parse).collect();
    if axes.iter().all(|(_, n)| *n == 1) { vec![] } else { axes }
}

/// What rank `rank` has of an operand that is laid out as its attributes say.
fn shard(
    x: &Tensor,
    ty: &TensorType,
    attrs: &Attrs,
    axes: &[(String, usize)],
    rank: usize,
) -> Tensor {
    let layout = attrs.strs(keys::LAYOUT).unwrap_or_default();
    let first = |i: usize| {
        let axis = axes.iter().rposition(|(n, _)| Some(&&**n) == layout.get(i));
        let at = axis.map_or(0, |a| {
            let stride: usize = axes[a + 1..].iter().map(|(_, n)| n).product();
            rank / stride % axes[a].1
        });
        at * ty.dims[i].size
    };
    let whole =
        |index: &[usize]| index.iter().enumerate().map(|(i, n)| first(i) + n).collect::<Vec<_>>();
    Tensor::from_fn(ty.clone(), |index| x.at(&whole(index)))
}

/// The results of a function on every rank.
fn evaluate(m: &Module, f: &Function, x: &[Tensor]) -> Result<Vec<Vec<Tensor>>, String> {
    let axes = mesh(m);
    let told = |e: neoxc_ir::op::OpError| format!("@{}: {e}", f.name);
    if axes.is_empty() {
        return Ok(vec![run(m, &f.name, x).map_err(told)?]);
    }
    let ranks: usize = axes.iter().map(|(_, n)| n).product();
    let of = |rank: usize| {
        let params = f.params.iter().zip(&f.param_attrs).zip(x);
        params.map(|((p, a), x)| shard(x, f.ty(*p), a, &axes, rank)).collect()
    };
    let inputs: Vec<Vec<Tensor>> = (0..ranks).map(of).collect();
    run_ranks(m, &f.name, &axes, &inputs).map_err(told)
}

/// Compares the functions that have the same signature; says how many there are. A program that the pass has divided
/// over ranks is given shards, and its results are compared where they are whole.
fn compare(before: &Module, after: &Module, tolerance: f64) -> Result<usize, String> {
    let signature = |f: &Function| -> Vec<TensorType> {
        f.params.iter().chain(&f.results).map(|v| f.ty(*v).clone()).collect()
    };
    let divides = mesh(before).is_empty() && !mesh(after).is_empty();
    let mut compared = 0;
    for f in &before.functions {
        let same = |g: &&Function| {
            divides && g.params.len() == f.params.len() || signature(g) == signature(f)
        };
        let Some(g) = after.function(&f.name).filter(same) else { continue };
        // Programs of several ranks are given whole values, of which each rank takes its shards.
        let mut whole = f.clone();
        for (axis, ranks) in mesh(before) {
            for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
                let layout = attrs.strs(keys::LAYOUT).unwrap_or_default();
                let dims = whole.values[p.index()].ty.dims.iter_mut().zip(layout);
                dims.filter(|(_, a)| *a == axis).for_each(|(d, _)| d.size *= ranks);
            }
        }
        let x = inputs(&whole);
        let (want, got) = (evaluate(before, f, &x)?, evaluate(after, g, &x)?);
        for (rank, got) in got.iter().enumerate() {
            for (n, (a, b)) in want[rank % want.len()].iter().zip(got).enumerate() {
                if a.ty != b.ty {
                    continue; // A shard.
                }
                compared += 1;
                for (a, b) in a.data.iter().zip(&b.data) {
                    if (a - b).abs() > tolerance * (1.0 + a.abs()) || a.is_nan() != b.is_nan() {
                        return Err(format!("result {n} of @{} was {a} and is {b}", f.name));
                    }
                }
            }
        }
    }
    Ok(compared)
}

/// Runs a file; the error says what is not as it says.
fn check(path: &Path, pass: &str) -> Result<(), String> {
    let source = std::fs::read_to_string(path).unwrap();
    let command = header(&source, "RUN").ok_or("there is no `// RUN: PASS KEY=VALUE…`")?;
    let mut words = command.split(' ');
    if words.next() != Some(pass) {
        return Err(format!("`RUN: {command}` stands in the folder of {pass}"));
    }
    let words: Vec<&str> = words.collect();
    let cx = PassCx::new(Target::X86V4).with(&words)?;
    let before = text::parse(&source).map_err(|e| e.to_string())?;
    verify(&before).map_err(|e| e.to_string())?;
    let mut after = before.clone();
    let ran = run_pass(&mut after, &find(pass).ok_or("there is no such pass")?, &cx);
    if let Some(want) = header(&source, "FAILS") {
        return match ran {
            Err(e) if e.to_string().contains(want) => Ok(()),
            Err(e) => Err(format!("it fails otherwise: {e}")),
            Ok(_) => Err("it does not fail".into()),
        };
    }
    ran.map_err(|e| e.to_string())?;
    let printed = text::print(&after);
    if text::parse(&printed).as_ref() != Ok(&after) {
        return Err(format!("what comes out does not round-trip:\n{printed}"));
    }
    let tolerance = header(&source, "TOLERANCE").map_or(1e-9, |t| t.parse().unwrap());
    match (compare(&before, &after, tolerance)?, header(&source, "UNEVALUATED")) {
        (0, None) => return Err("no function kept its signature: say `// UNEVALUATED: why`".into()),
        (1.., Some(_)) => return Err("it is evaluated, though it says `UNEVALUATED`".into()),
        _ => {}
    }
    let got = outline(&after, header(&source, "SHOW"));
    let got: String = got.lines().map(|l| format!("//   {l}\n")).collect();
    let (start, want) = source.split_once(EXPECT).unwrap_or((&source, ""));
    if std::env::var_os("NEOXC_BLESS").is_some() {
        std::fs::write(path, format!("{}\n{EXPECT}{got}", start.trim_end())).unwrap();
    } else if got != want {
        return Err(format!("what comes out is\n{got}instead of\n{want}"));
    }
    Ok(())
}

/// The files of a pass.
fn files(pass: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder().join(pass)).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    paths.sort();
    paths
}

#[test]
fn passes_do_what_their_files_say() {
    let mut wrong = vec![];
    for (_, pass) in PASSES {
        for path in files(pass.name) {
            if let Err(what) = check(&path, pass.name) {
                wrong.push(format!("{}: {what}", path.strip_prefix(folder()).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n(NEOXC_BLESS=1 writes the files anew)", wrong.join("\n\n"));
}

#[test]
fn every_pass_has_three_files() {
    for (_, pass) in PASSES {
        let n = files(pass.name).len();
        assert!(n >= 3, "{} has {n} files in passes/tests/files", pass.name);
    }
    for folder in std::fs::read_dir(folder()).unwrap().flatten() {
        let name = folder.file_name().into_string().unwrap();
        assert!(find(&name).is_some(), "passes/tests/files/{name} is no pass's");
    }
}
