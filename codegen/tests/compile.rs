//! The way from kernels to a shared object: what the kernels look like, the cache, failures.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_codegen::kernels::{self, Kernel};
use neoxc_codegen::{gpu, x86};
use neoxc_ir::target::Target;
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Dim, Function, Loc, Module, OpKind, TensorType, ValueId,
};

type Dims<'a> = &'a [(&'a str, usize)];

fn function(
    name: &str,
    family: &str,
    params: &[Dims<'_>],
    body: impl FnOnce(&mut Builder<'_>, &[ValueId]) -> Vec<ValueId>,
) -> Function {
    let mut f = Function::new(name);
    f.attrs.set("neox.kernel", Attr::Str(family.into()));
    let ids: Vec<ValueId> = params
        .iter()
        .enumerate()
        .map(|(i, dims)| {
            let dims = dims.iter().map(|(n, s)| Dim::new(n, *s)).collect();
            f.add_param(&format!("p{i}"), TensorType::new(DType::F32, dims), Attrs::new())
        })
        .collect();
    f.results = body(&mut Builder::new(&mut f), &ids);
    for op in &mut f.ops {
        op.loc = Loc::File { file: "14M.yml".into(), line: 14, column: 5 };
    }
    f
}

fn build(f: &Function) -> Kernel {
    kernels::build(&Module::new(), f, Target::X86V3).unwrap()
}

fn bias_function() -> Function {
    let (x, b) = ([("seq", 6), ("embed", 20)], [("embed", 20)]);
    function("bias", "rowwise", &[&x, &b], |k, p| vec![k.add(p[0], p[1]).unwrap()])
}

fn matmul_function() -> Function {
    let (x, w) = ([("seq", 6), ("embed", 24)], [("embed", 24), ("ffn", 16)]);
    function("matmul", "matmul", &[&x, &w], |k, p| vec![k.matmul(p[0], p[1], &["embed"]).unwrap()])
}

fn column_sum_function() -> Function {
    let x = [("seq", 6), ("embed", 20)];
    function("column_sum", "columnwise", &[&x], |k, p| vec![k.reduce_sum(p[0], &["seq"]).unwrap()])
}

fn bias() -> Kernel {
    build(&bias_function())
}

fn matmul() -> Kernel {
    build(&matmul_function())
}

fn column_sum() -> Kernel {
    build(&column_sum_function())
}

/// What the back ends make of a few kernels. LLVM's version is pinned, so its text is ours to read.
#[test]
fn kernels_of_gpus() {
    for (f, target) in [
        (bias_function(), Target::Sm80),
        (matmul_function(), Target::Sm80),
        (column_sum_function(), Target::Sm90a),
        (matmul_function(), Target::Sm90a),
        (bias_function(), Target::Gfx90a),
        (matmul_function(), Target::Gfx90a),
        (column_sum_function(), Target::Gfx942),
        (matmul_function(), Target::Gfx942),
    ] {
        let k = kernels::build_gpu(&Module::new(), &f, target).unwrap();
        let name = format!("{target}_{}", k.symbol);
        insta::assert_snapshot!(name, gpu::assembly(&k, target).unwrap());
    }
}

#[test]
fn kernels_of_avx2() {
    for k in [bias(), matmul(), column_sum()] {
        let text =
            format!("// {} tasks, {} bytes of scratch\n{}", k.tasks, k.scratch_bytes, k.mlir);
        insta::assert_snapshot!(format!("x86_64_v3_{}", k.symbol), text);
    }
}

#[test]
fn damaged_cache_entries_are_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let all = [bias(), column_sum()];
    let compile = || x86::compile(&all, Target::X86V3, Some(folder.path())).unwrap();
    let first = compile();
    assert_eq!(first.cached, 0);
    let again = compile();
    assert_eq!((again.cached, &again.so), (2, &first.so));
    let mut damaged = 0;
    for sub in std::fs::read_dir(folder.path().join("objects")).unwrap() {
        for file in std::fs::read_dir(sub.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 3, "two objects and what they link to");
    let rebuilt = compile();
    assert_eq!((rebuilt.cached, &rebuilt.so), (0, &first.so));
    assert_eq!(compile().cached, 2);
}

#[test]
fn another_kernel_or_target_is_another_entry() {
    let folder = tempfile::tempdir().unwrap();
    let cached = |k: Kernel, t| x86::compile(&[k], t, Some(folder.path())).unwrap().cached;
    assert_eq!(cached(bias(), Target::X86V3), 0);
    assert_eq!(cached(bias(), Target::X86V4), 0);
    assert_eq!(cached(column_sum(), Target::X86V3), 0);
    assert_eq!(cached(bias(), Target::X86V3), 1);
    // A file that is renamed or indented anew has the kernels that it had, and nothing in them would differ.
    let mut elsewhere = bias();
    elsewhere.mlir = elsewhere.mlir.replace("\"14M.yml\":14:5", "\"mine (2).yml\":15:7");
    assert_ne!(elsewhere.mlir, bias().mlir);
    let alone = |k: &Kernel| x86::compile(std::slice::from_ref(k), Target::X86V3, None).unwrap().so;
    assert_eq!(alone(&elsewhere), alone(&bias()));
    assert_eq!(cached(elsewhere, Target::X86V3), 1);
    assert!(matmul().unrolled && !bias().unrolled);
    let other_passes = Kernel { unrolled: true, ..bias() };
    assert_eq!(cached(other_passes, Target::X86V3), 0);
}

#[test]
fn what_mlir_refuses_is_an_error_with_its_words() {
    for (mlir, words) in [
        ("module { func.func @bad( }", "MLIR parser"),
        ("module { func.func @bad() { %0 = arith.addf %1, %1 : f32 return } }", "undeclared"),
        ("module { func.func @bad() -> f32 { return } }", "operands"),
    ] {
        let k = Kernel {
            symbol: "bad".into(),
            mlir: mlir.into(),
            tasks: 1,
            scratch_bytes: 0,
            ties: None,
            unrolled: false,
        };
        let e = x86::compile(&[bias(), k], Target::X86V3, None).unwrap_err().to_string();
        assert!(e.contains("@bad") && e.contains(words), "{e}");
    }
}

#[test]
fn a_family_says_what_it_cannot_do() {
    let x = [("seq", 6), ("embed", 20)];
    let f = function("wrong", "columnwise", &[&x], |k, p| {
        vec![k.reduce_sum(p[0], &["embed"]).unwrap()]
    });
    let e = kernels::build(&Module::new(), &f, Target::X86V3).unwrap_err().to_string();
    assert!(e.contains("@wrong") && e.contains("rows"), "{e}");
    let f = function("none", "nonsense", &[&x], |k, p| vec![k.unary(OpKind::Neg, p[0]).unwrap()]);
    let e = kernels::build(&Module::new(), &f, Target::X86V3).unwrap_err().to_string();
    assert!(e.contains("nonsense"), "{e}");
}
