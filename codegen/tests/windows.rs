//! Attention whose queries see a window of keys before their own, forward, backward and token by token, against the
//! reference evaluator.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Dims, F, H, Random, check, check_everywhere, check_for, inputs, kernel, units};
use neoxc_codegen::x86::Cpu;
use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, DType, Function, Module, OpKind};

const I: DType = DType::I32;

/// batch, heads of keys, queries of each, seq, head_dim.
type Size = [usize; 5];

/// Forward, and backward with whole heads and with runs of keys; of what forward made.
fn attention(
    size @ [b, h, n, s, d]: Size,
    dtype: DType,
    window: usize,
    drops: bool,
    keys: usize,
) -> Vec<(Function, Vec<Tensor>)> {
    let (b, h, s, d) = (("batch", b), ("heads", h), ("seq", s), ("head_dim", d));
    let own = n == 1;
    let all = |dims: &[(&'static str, usize)]| -> Vec<(&'static str, usize)> {
        dims.iter().copied().filter(|d| !own || d.0 != "queries").collect()
    };
    let n = ("queries", n);
    let (q, kv) = (all(&[b, h, n, s, d]), [b, h, s, d]);
    let (out, lse) = (all(&[b, s, h, n, d]), all(&[b, h, n, s]));
    let ids = [vec![b, s], vec![], vec![("kv_seq", s.1)], all(&[h, n])];
    let mut attrs = Attrs::new()
        .with("scale", Attr::Float(2.0 / (d.1 as f64).sqrt()))
        .with("window", Attr::Int(window as i64));
    let (prefix, ids) = match drops {
        true => ("dropout_", &ids[..]),
        false => ("", &ids[..0]),
    };
    if drops {
        attrs = attrs.with("rate", Attr::Float(0.3));
        attrs = attrs.with("seed", Attr::Int(12)).with("site", Attr::Int(2));
    }
    let ids: Vec<(Dims<'_>, DType)> = ids.iter().map(|dims| (&dims[..], I)).collect();
    let three: [(Dims<'_>, DType); 3] = [(&q, dtype), (&kv, dtype), (&kv, dtype)];
    let made: [(Dims<'_>, DType); 3] = [(&out, dtype), (&lse, F), (&out, dtype)];
    let name = |what: &str| {
        let size = size.map(|n| n.to_string()).join("_");
        format!("{prefix}{what}_{}_{size}_w{window}", dtype.name())
    };
    let forward = kernel(&name("attend"), "attention", &[&three[..], &ids].concat(), |b, p| {
        b.named(&format!("{prefix}attention"), p, attrs.clone()).unwrap()
    });
    let gradient = |what: &str, attrs: Attrs| {
        let params = [&three[..], &made, &ids].concat();
        kernel(&name(what), "attention_grad", &params, |b, p| {
            b.named(&format!("{prefix}attention_grad"), p, attrs).unwrap()
        })
    };
    let whole = gradient("gradient", attrs.clone());
    let runs = attrs.with("keys", Attr::Int(keys as i64)).with("members", Attr::Int(1));
    let parts = gradient("parts", runs);
    let mut x = inputs(&whole, 1 << 20, &mut Random(window as u64));
    let given = [&x[..3], &x[6..]].concat();
    let made = run_function(&Module::new(), &forward, &given).unwrap();
    x.splice(3..5, made);
    vec![(forward, given), (whole, x.clone()), (parts, x)]
}

/// Windows within a group of queries, of a whole one, of several, and of more keys than there are; runs of keys that begin where tiles do, and elsewhere.
#[test]
fn queries_see_a_window_of_keys() {
    let rows: [(Size, usize, bool, usize); 4] = [
        ([1, 2, 2, 131, 16], 7, true, 61),
        ([1, 1, 1, 310, 8], 47, false, 96),
        ([1, 1, 1, 530, 9], 100, false, 61),
        ([1, 1, 1, 40, 16], 1000, false, 48),
    ];
    let cases = rows.map(|(size, window, drops, keys)| attention(size, F, window, drops, keys));
    check_everywhere(&cases.concat(), 1e-5);
}

/// The same by pairs: blocks of 128 queries in groups of 32, chunks of 256 keys.
#[test]
fn queries_see_a_window_of_keys_in_bf16() {
    let rows: [(Size, usize, bool, usize); 2] =
        [([1, 1, 3, 290, 24], 17, true, 128), ([1, 1, 1, 600, 8], 150, false, 256)];
    let cases = rows.map(|(size, window, drops, keys)| attention(size, H, window, drops, keys));
    let cases = cases.concat();
    for cpu in units().skip(1) {
        // Small panels, of which there are several.
        let cpu = Cpu { l2: 1 << 10, ..cpu };
        check_for(Target::X86Native, cpu, &cases, 2.0 / 256.0 + 2e-5);
    }
}

/// Keys and values before every tile that a query sees have no part in its result, be they not numbers: a weight of zero
/// would not hide them. So the work is that of the windows.
#[test]
fn tiles_outside_of_every_window_are_not_computed() {
    let q = [("batch", 1), ("heads", 1), ("seq", 500), ("head_dim", 8)];
    let attrs = Attrs::new().with("scale", Attr::Float(0.5)).with("window", Attr::Int(8));
    let f = kernel("unseen", "attention", &[(&q[..], F); 3], |b, p| {
        vec![b.op(OpKind::Attention, p, attrs).unwrap()[0]]
    });
    let x = inputs(&f, 1, &mut Random(3));
    let want = run_function(&Module::new(), &f, &x).unwrap();
    let mut broken = x;
    for t in &mut broken[1..] {
        t.data[..300 * 8].fill(f64::NAN);
    }
    let got = common::run_once(Target::X86Native, &f, &broken);
    // The window, and two tiles of 48 keys or queries that it may begin in.
    let first = 300 + 8 + 2 * 48;
    for (i, (a, b)) in got[0].iter().zip(&want[0].data).enumerate().skip(first * 8) {
        assert!((f64::from(*a) - b).abs() < 1e-5, "{i}: {a} {b}");
    }
}

#[test]
fn one_token_attends_to_a_window_of_what_is_kept() {
    let mut cases = vec![];
    for (dtype, d) in [(F, 24), (H, 33)] {
        let q = [("batch", 1), ("heads", 2), ("queries", 3), ("seq", 1), ("head_dim", d)];
        let own = [("batch", 1), ("heads", 2), ("seq", 1), ("head_dim", d)];
        let kept = [("batch", 1), ("heads", 2), ("past", 40), ("head_dim", d)];
        let types: [(Dims<'_>, DType); 6] = [
            (&q, dtype),
            (&own, dtype),
            (&own, dtype),
            (&kept, dtype),
            (&kept, dtype),
            (&[("seq", 1)], I),
        ];
        for window in [0, 7, 50] {
            let attrs =
                Attrs::new().with("scale", Attr::Float(0.3)).with("window", Attr::Int(window));
            for count in [1, 41] {
                let name = format!("kept_{}_{window}_{count}", dtype.name());
                let f = kernel(&name, "cached_attention", &types, |b, p| {
                    b.op(OpKind::CachedAttention, p, attrs.clone()).unwrap()
                });
                cases.push((f, count));
            }
        }
    }
    check(&cases, 1.0 / 256.0 + 1e-5);
}
