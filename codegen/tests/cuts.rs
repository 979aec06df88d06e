//! Cuts of matmuls into tasks: each that `neoxc tune` may choose gives the bits of the model's choice.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{F, H, Random, check_for, inputs, kernel, library, run};
use neoxc_codegen::kernels::{self, Choice, Cut, Kernel, Tuned};
use neoxc_codegen::x86::Cpu;
use neoxc_ir::eval::run_function;
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Function, Module, OpKind};

const HERE: Target = Target::X86Native;

fn build(f: &Function, choice: Choice<'_>) -> Kernel {
    kernels::build_for(&Module::new(), f, HERE, Cpu::of(HERE), choice).unwrap()
}

/// A bias and an accumulation behind the matmul, as in a layer.
fn matmul(name: &str, m: usize, n: usize, k: usize, dtype: neoxc_ir::DType) -> Function {
    let (x, w) = ([("seq", m), ("embed", k)], [("ffn", n), ("embed", k)]);
    let (bias, y) = ([("ffn", n)], [("seq", m), ("ffn", n)]);
    kernel(name, "matmul", &[(&x, dtype), (&w, dtype), (&bias, F), (&y, F)], |b, p| {
        let z = b.matmul(p[0], p[1], &["embed"]).unwrap();
        let z = b.add(z, p[2]).unwrap();
        vec![b.add(p[3], z).unwrap()]
    })
}

#[test]
fn every_cut_gives_the_same_bits() {
    let mut r = Random(5);
    for (i, (m, n, k)) in [(203, 301, 40), (64, 144, 1030), (130, 80, 600)].into_iter().enumerate()
    {
        for (suffix, dtype) in [("f32", F), ("bf16", H)] {
            let f = matmul(&format!("p{i}_{suffix}"), m, n, k, dtype);
            let x = inputs(&f, 1, &mut r);
            let bits = |kernel: &Kernel| -> Vec<Vec<u32>> {
                let so = library(std::slice::from_ref(kernel), HERE);
                let results = run(&so, kernel, &f, &x, 1);
                results.iter().map(|r| r.iter().map(|x| x.to_bits()).collect()).collect()
            };
            let model = build(&f, Choice::Model);
            let want = bits(&model);
            let ties = model.ties.clone().unwrap();
            assert_eq!(ties.taken, ties.cuts[0]);
            for cut in &ties.cuts[1..] {
                let other = build(&f, Choice::This(*cut));
                assert_ne!(other.mlir, model.mlir, "{} {cut:?}", f.name);
                assert!(bits(&other) == want, "{} {cut:?}", f.name);
            }
        }
    }
}

/// How many groups of queries share a chunk of keys depends on the cache and on the cores, and no result does.
#[test]
fn attention_has_the_same_bits_however_many_groups_share_a_chunk() {
    let mut r = Random(3);
    for (i, (heads, seq, width)) in
        [(4, 400, 24), (8, 192, 64), (3, 530, 9)].into_iter().enumerate()
    {
        let q = [("batch", 1), ("heads", heads), ("seq", seq), ("head_dim", width)];
        let y = [("batch", 1), ("seq", seq), ("heads", heads), ("head_dim", width)];
        let lse = [("batch", 1), ("heads", heads), ("seq", seq)];
        let scale = Attrs::new().with("scale", Attr::Float(0.5));
        let three = [(&q[..], F); 3];
        let six = [&three[..], &[(&y[..], F), (&lse[..], F), (&y[..], F)]].concat();
        let forward = kernel(&format!("forward{i}"), "attention", &three, |b, p| {
            b.op(OpKind::Attention, p, scale.clone()).unwrap()
        });
        let backward = kernel(&format!("backward{i}"), "attention_grad", &six, |b, p| {
            b.op(OpKind::AttentionGrad, p, scale).unwrap()
        });
        for target in [HERE, Target::X86V3] {
            // Caches for all groups that a block may have, for some of them and for one.
            let cpus =
                [2 << 20, 160 << 10, 1 << 10].map(|l2| Cpu { l2, cores: 1, ..Cpu::of(target) });
            let mut x = inputs(&backward, 1, &mut r);
            let made = run_function(&Module::new(), &forward, &x[..3]).unwrap();
            x.splice(3..5, made);
            let cases = [(forward.clone(), x[..3].to_vec()), (backward.clone(), x)];
            check_for(target, cpus[0], &cases, 1e-5);
            for (f, x) in &cases {
                let of = |cpu| {
                    let kernel =
                        kernels::build_for(&Module::new(), f, target, cpu, Choice::Model).unwrap();
                    let so = library(std::slice::from_ref(&kernel), target);
                    let results = run(&so, &kernel, f, x, 1);
                    let bits: Vec<u32> = results.iter().flatten().map(|x| x.to_bits()).collect();
                    (kernel.mlir, bits)
                };
                let [most, some, one] = cpus.map(of);
                assert_ne!(most.0, one.0, "{}", f.name);
                assert!(most.1 == some.1 && most.1 == one.1, "{}", f.name);
            }
        }
    }
}

#[test]
fn a_kept_cut_is_used_if_the_model_still_knows_it() {
    let folder = tempfile::tempdir().unwrap();
    let f = matmul("p", 512, 512, 96, F);
    let model = build(&f, Choice::Model);
    let ties = model.ties.clone().unwrap();
    assert!(ties.cuts.len() > 1, "{ties:?}");
    let tuned = Tuned::open(folder.path(), HERE).unwrap();
    assert_eq!(build(&f, Choice::Tuned(&tuned)).mlir, model.mlir);
    tuned.keep(&ties.key, ties.cuts[1]).unwrap();
    let kernel = build(&f, Choice::Tuned(&tuned));
    assert_eq!(kernel.ties.unwrap().taken, ties.cuts[1]);
    assert!(kernel.mlir.contains("as measured by neoxc tune"), "{}", kernel.mlir);
    // A cut of nothing the model proposes, as of another version, is not used.
    for strange in [Cut { rows: 3, columns: 7 }, Cut { rows: 0, columns: 0 }] {
        tuned.keep(&ties.key, strange).unwrap();
        assert_eq!(build(&f, Choice::Tuned(&tuned)).mlir, model.mlir);
    }
    // A damaged entry is none.
    let files: Vec<_> = walk(folder.path());
    assert_eq!(files.len(), 1);
    std::fs::write(&files[0], "16 48").unwrap();
    assert_eq!(build(&f, Choice::Tuned(&tuned)).mlir, model.mlir);
    // What is measured here says nothing of other machines.
    assert!(Tuned::open(folder.path(), Target::X86V3).is_none());
}

/// The files below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] }).collect()
}
