//! Every op of the registry: gradient against central differences, decomposition against
//! evaluation, text round trip. An op without a case fails `every_op_has_a_case`.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::op::{Decomposition, GradCx, Gradient, RuleCx};
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, TensorType, ops, text};

/// Deterministic values in [-1, 1) without repeats (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn size(&mut self) -> usize {
        1 + (self.next() % 5) as usize
    }
}

/// One use of an op: operand types, attributes, values for integer operands below `ids`, offset
/// that keeps operands inside the op's domain, operands that are not random.
struct Case {
    op: &'static str,
    operands: Vec<TensorType>,
    attrs: Attrs,
    ids: usize,
    shift: f64,
    given: Vec<(usize, Tensor)>,
}

fn case(op: &'static str, operands: Vec<TensorType>, attrs: Attrs) -> Case {
    Case { op, operands, attrs, ids: 1, shift: 0.0, given: vec![] }
}

fn s(v: &str) -> Attr {
    Attr::Str(v.into())
}

fn i32s(dims: &[(&str, usize)]) -> TensorType {
    TensorType::new(DType::I32, dims.iter().map(|(n, s)| Dim::new(n, *s)).collect())
}

/// Cases with fresh sizes; calls and loops are tested through whole functions elsewhere.
fn cases(r: &mut Random) -> Vec<Case> {
    let (b, q, e, h) = (r.size(), 1 + r.size(), r.size() + 1, r.size());
    let f = TensorType::f32;
    let x = f(&[("batch", b), ("seq", q), ("embed", e)]);
    let row = f(&[("batch", b), ("seq", q)]);
    let w = f(&[("embed", e)]);
    let none = Attrs::new;
    let mut out = vec![];
    let axis = none().with("axis", s("data")).with("ranks", Attr::Int(1));
    out.push(case("all_reduce", vec![x.clone()], axis.clone()));
    for op in ["all_gather", "reduce_scatter", "take_part"] {
        out.push(case(op, vec![x.clone()], axis.clone().with("dim", s("seq"))));
    }
    let both = axis.clone().with("dim", s("seq")).with("from", s("embed"));
    out.push(case("all_to_all", vec![x.clone()], both));
    out.push(case("wait", vec![x.clone()], none()));
    for op in ["add", "sub", "mul", "maximum", "minimum"] {
        out.push(case(op, vec![x.clone(), w.clone()], none()));
        out.push(case(op, vec![row.clone(), x.clone()], none()));
    }
    out.push(Case { shift: 2.5, ..case("div", vec![x.clone(), w.clone()], none()) });
    for op in ["neg", "exp", "tanh", "logistic", "erf", "step"] {
        out.push(case(op, vec![x.clone()], none()));
    }
    for op in ["log", "sqrt", "rsqrt"] {
        out.push(Case { shift: 2.0, ..case(op, vec![x.clone()], none()) });
    }
    for form in ["none", "tanh"] {
        out.push(case("gelu", vec![x.clone()], none().with("approximate", s(form))));
        let two = vec![x.clone(), x.clone()];
        out.push(case("gelu_grad", two, none().with("approximate", s(form))));
    }
    out.push(case("cast", vec![x.clone()], none().with("dtype", s("f64"))));
    let fill = neoxc_ir::build::dims_attrs(&x.dims);
    out.push(case("fill", vec![], fill.with("value", Attr::Float(1.5)).with("dtype", s("f32"))));
    let over = |d: &[&str]| none().with("dims", Attr::strs(d));
    out.push(case("reduce_sum", vec![x.clone()], over(&["batch", "embed"])));
    out.push(case("reduce_max", vec![x.clone()], over(&["embed"])));
    out.push(case("softmax", vec![x.clone()], none().with("dim", s("seq"))));
    out.push(case(
        "iota",
        vec![],
        none().with("dim", s("embed")).with("size", Attr::Int(e as i64)),
    ));
    let rate = none().with("rate", Attr::Float(0.4));
    let drop = rate.with("seed", Attr::Int(-7)).with("site", Attr::Int(2));
    let names = [i32s(&[("batch", b), ("seq", q)]), i32s(&[]), i32s(&[("embed", e)])];
    let dropped = [vec![x.clone()], names.to_vec()].concat();
    out.push(Case { ids: 1000, ..case("dropout", dropped, drop.clone()) });
    let square = f(&[("heads", h), ("seq", q), ("kv_seq", q)]);
    let mask = none().with("query", s("seq")).with("key", s("kv_seq"));
    out.push(case("causal_mask", vec![square.clone()], mask.with("value", Attr::Float(-3.0))));
    let heads = [i32s(&[("seq", q)]), i32s(&[]), i32s(&[("kv_seq", q)]), i32s(&[("heads", h)])];
    let dropped = [vec![square], heads.to_vec()].concat();
    out.push(Case { ids: 1000, ..case("dropout", dropped, drop.clone()) });
    let flat = neoxc_ir::build::dims_attrs(&[Dim::new("all", b * q), Dim::new("embed", e)]);
    out.push(case("reshape", vec![x.clone()], flat));
    out.push(case("rename", vec![x.clone()], none().with("from", s("seq")).with("to", s("t"))));
    out.push(case("transpose", vec![x.clone()], over(&["embed", "batch", "seq"])));
    let slice = none().with("dim", s("seq")).with("start", Attr::Int(1));
    out.push(case("slice", vec![x.clone()], slice.with("size", Attr::Int(q as i64 - 1))));
    let pad = none().with("dim", s("seq")).with("before", Attr::Int(2));
    out.push(case("pad", vec![x.clone()], pad.with("after", Attr::Int(1))));
    let contract = |d: &str| none().with("contract", s(d));
    let wide = f(&[("ffn", h), ("embed", e)]);
    out.push(case("matmul", vec![x.clone(), wide.clone()], contract("embed")));
    let k = f(&[("batch", b), ("kv_seq", h), ("embed", e)]);
    out.push(case("matmul", vec![x.clone(), k], contract("embed")));
    out.push(case("matmul", vec![x.clone(), x.without("embed")], contract("batch,seq")));
    let ids = i32s(&[("batch", b), ("seq", q)]);
    let table = f(&[("vocab", 7), ("embed", e)]);
    out.push(Case { ids: 7, ..case("gather", vec![table.clone(), ids.clone()], none()) });
    let rows = none().with("dim", s("vocab")).with("size", Attr::Int(7));
    out.push(Case { ids: 7, ..case("scatter_add", vec![ids.clone(), x.clone()], rows.clone()) });
    // Of three rows, which are those of one of several parts of the table.
    let part = i32s(&[("rank", 1)]);
    let third = f(&[("vocab", 3), ("embed", e)]);
    let own = |operands: Vec<TensorType>| [operands, vec![part.clone()]].concat();
    out.push(Case { ids: 7, ..case("gather", own(vec![third, ids.clone()]), none()) });
    let rows = rows.with("size", Attr::Int(3));
    out.push(Case { ids: 7, ..case("scatter_add", own(vec![ids.clone(), x.clone()]), rows) });
    let norm = none().with("dim", s("embed")).with("eps", Attr::Float(1e-5));
    out.push(case("layer_norm", vec![x.clone(), w.clone(), w.clone()], norm.clone()));
    out.push(case("layer_norm", vec![x.clone(), w.clone()], norm));
    let operands = vec![x.clone(), w.clone(), row.clone(), row.clone(), x.clone()];
    let rms = none().with("dim", s("embed")).with("eps", Attr::Float(1e-5));
    out.push(case("rms_norm", vec![x.clone(), w.clone()], rms));
    let rms = vec![x.clone(), w.clone(), row.clone(), x.clone()];
    let norm = none().with("dim", s("embed"));
    out.push(case("layer_norm_grad", operands.clone(), norm.clone()));
    out.push(case("rms_norm_grad", rms.clone(), norm.clone()));
    // Runs that end within the rows of one sequence, and one that is longer than all.
    for rows in [2, 100] {
        let runs = norm.clone().with("rows", Attr::Int(rows));
        out.push(case("layer_norm_grad", operands.clone(), runs.clone()));
        out.push(case("rms_norm_grad", rms.clone(), runs.clone()));
        out.push(case("sum_runs", vec![x.clone()], runs));
    }
    let table_attrs = none().with("seq_size", Attr::Int(5)).with("rot", Attr::Int(4));
    out.push(case("rotary_table", vec![], table_attrs.with("base", Attr::Float(1e4))));
    for extra in [0, 3] {
        let x = f(&[("heads", h), ("seq", q), ("head_dim", 4 + extra)]);
        let t = f(&[("seq", q), ("rot", 2)]);
        out.push(case("rotary", vec![x, t.clone(), t], none()));
    }
    let fused = f(&[("batch", b), ("seq", q), ("heads", h), ("qkv", 3), ("head_dim", e)]);
    out.push(case("qkv_split", vec![fused], none()));
    grouped_cases(r, &mut out);
    let part = f(&[("batch", b), ("heads", h), ("seq", q), ("head_dim", e)]);
    let three = vec![part.clone(), part.clone(), part.clone()];
    out.push(case("qkv_merge", three.clone(), none()));
    let scale = none().with("scale", Attr::Float(0.6));
    out.push(case("attention", three.clone(), scale.clone()));
    let y = f(&[("batch", b), ("seq", q), ("heads", h), ("head_dim", e)]);
    let lse = part.without("head_dim");
    let part3 = three.clone();
    let six = [three, vec![y.clone(), lse, y]].concat();
    out.push(case("attention_grad", six.clone(), scale.clone()));
    let parts = |attrs: &Attrs| attrs.clone().with("keys", Attr::Int((q as i64 / 3).max(1)));
    out.push(case("attention_grad", six.clone(), parts(&scale)));
    let token = f(&[("batch", b), ("heads", h), ("seq", 1), ("head_dim", e)]);
    let past = f(&[("batch", b), ("heads", h), ("past", q), ("head_dim", e)]);
    for count in [0, q / 2, q] {
        let mut operands = vec![token.clone(); 3];
        operands.extend([past.clone(), past.clone(), i32s(&[("seq", 1)])]);
        let count = Tensor::new(i32s(&[("seq", 1)]), vec![count as f64]);
        let given = vec![(5, count)];
        out.push(Case { given, ..case("cached_attention", operands, scale.clone()) });
    }
    let named = [std::slice::from_ref(&ids), &heads[1..]].concat();
    let drop = drop.with("scale", Attr::Float(0.6));
    let seven = [part3, named.clone()].concat();
    out.push(Case { ids: 1000, ..case("dropout_attention", seven, drop.clone()) });
    let ten = [six, named].concat();
    out.push(Case { ids: 1000, ..case("dropout_attention_grad", ten.clone(), parts(&drop)) });
    out.push(Case { ids: 1000, ..case("dropout_attention_grad", ten, drop) });
    let logits = f(&[("batch", b), ("seq", q), ("vocab", 7)]);
    let over_vocab = none().with("dim", s("vocab"));
    let two = vec![logits.clone(), ids.clone()];
    let four = vec![logits, ids.clone(), row.clone(), row.clone()];
    let with_ids = |op, operands, attrs| Case { ids: 7, ..case(op, operands, attrs) };
    out.push(with_ids("cross_entropy", two.clone(), over_vocab.clone()));
    out.push(with_ids("cross_entropy_grad", four.clone(), over_vocab.clone()));
    out.push(with_ids("cross_entropy_part", own(two.clone()), over_vocab.clone()));
    out.push(with_ids("cross_entropy_grad", own(four), over_vocab.clone()));
    let meets = none().with("axis", s("tensor")).with("ranks", Attr::Int(1));
    let attrs = meets.clone().with("dim", s("vocab"));
    out.push(with_ids("cross_entropy", own(two), attrs));
    let stats = f(&[("rank", h), ("batch", b), ("seq", q), ("stat", 3)]);
    out.push(Case { shift: 2.0, ..case("cross_entropy_join", vec![stats], none()) });
    let lce = vec![x.clone(), table.clone(), ids.clone()];
    out.push(Case { ids: 7, ..case("linear_cross_entropy", lce.clone(), none()) });
    let with = |more: usize| [lce.clone(), vec![row.clone(); more]].concat();
    out.push(Case { ids: 7, ..case("linear_cross_entropy_grad", with(2), none()) });
    out.push(Case { ids: 7, ..case("linear_cross_entropy_train", with(1), none()) });
    out.push(with_ids("linear_cross_entropy", own(lce.clone()), meets.clone()));
    out.push(with_ids("linear_cross_entropy_grad", own(with(2)), none()));
    out.push(with_ids("linear_cross_entropy_train", own(with(1)), meets));
    out.push(case("sum_squares", vec![x.clone()], none()));
    routing_cases(r, &mut out);
    out
}

/// Attention whose query heads share heads of keys and values.
fn grouped_cases(r: &mut Random, out: &mut Vec<Case>) {
    let mut below = |n: usize| 1 + r.size() % n;
    let (b, q, e, h, n) = (below(2), 1 + below(3), below(3), below(2), 1 + below(2));
    let f = TensorType::f32;
    let none = Attrs::new;
    let fused = f(&[("batch", b), ("seq", q), ("heads", h), ("qkv", n + 2), ("head_dim", e)]);
    out.push(case("qkv_split", vec![fused], none()));
    let part = f(&[("batch", b), ("heads", h), ("seq", q), ("head_dim", e)]);
    let queries = f(&[("batch", b), ("heads", h), ("queries", n), ("seq", q), ("head_dim", e)]);
    let three = vec![queries.clone(), part.clone(), part];
    out.push(case("qkv_merge", three.clone(), none()));
    let scale = none().with("scale", Attr::Float(0.6));
    out.push(case("attention", three.clone(), scale.clone()));
    let y = f(&[("batch", b), ("seq", q), ("heads", h), ("queries", n), ("head_dim", e)]);
    let made = vec![y.clone(), queries.without("head_dim"), y];
    let six = [three.clone(), made].concat();
    let parts = |attrs: &Attrs| attrs.clone().with("keys", Attr::Int((q as i64 / 3).max(1)));
    out.push(case("attention_grad", six.clone(), scale.clone()));
    out.push(case("attention_grad", six.clone(), parts(&scale)));
    let some = |attrs: Attrs| attrs.with("members", Attr::Int(2));
    out.push(case("attention_grad", six.clone(), some(parts(&scale))));
    let token = [
        f(&[("batch", b), ("heads", h), ("queries", n), ("seq", 1), ("head_dim", e)]),
        f(&[("batch", b), ("heads", h), ("seq", 1), ("head_dim", e)]),
    ];
    let past = f(&[("batch", b), ("heads", h), ("past", q), ("head_dim", e)]);
    for count in [0, q] {
        let mut operands = vec![token[0].clone(), token[1].clone(), token[1].clone()];
        operands.extend([past.clone(), past.clone(), i32s(&[("seq", 1)])]);
        let count = Tensor::new(i32s(&[("seq", 1)]), vec![count as f64]);
        let given = vec![(5, count)];
        out.push(Case { given, ..case("cached_attention", operands, scale.clone()) });
    }
    let ids = [
        i32s(&[("batch", b), ("seq", q)]),
        i32s(&[]),
        i32s(&[("kv_seq", q)]),
        i32s(&[("heads", h), ("queries", n)]),
    ];
    let drop = scale.with("rate", Attr::Float(0.4)).with("seed", Attr::Int(-7));
    let drop = drop.with("site", Attr::Int(2));
    let dropped = [&three[..], &ids].concat();
    out.push(Case { ids: 1000, ..case("dropout_attention", dropped, drop.clone()) });
    let dropped = [&six[..], &ids].concat();
    let both = some(parts(&drop));
    out.push(Case { ids: 1000, ..case("dropout_attention_grad", dropped.clone(), both) });
    out.push(Case { ids: 1000, ..case("dropout_attention_grad", dropped, drop) });
}

/// Ops of mixture-of-experts layers; what routes tokens fits together.
fn routing_cases(r: &mut Random, out: &mut Vec<Case>) {
    let (g, t, e, f) = (1 + r.size() % 2, r.size() + 2, r.size(), r.size());
    let (local, owners, k) = (1 + r.size() % 3, 1 + r.size() % 2, 1 + r.size() % 2);
    let experts = local * owners + usize::from(local * owners == 1);
    let local = experts / owners;
    let none = Attrs::new;
    let int = |n: usize| Attr::Int(n as i64);
    let tokens = [("group", g), ("token", t)];
    let float = |more: &[(&str, usize)]| TensorType::f32(&[&tokens[..], more].concat());
    let probabilities = float(&[("experts", experts)]);
    let choices = i32s(&[&tokens[..], &[("choice", k)]].concat());
    let weights = choices.with_dtype(DType::F32);
    let x = float(&[("embed", e)]);
    out.push(case("top_k", vec![probabilities.clone()], none().with("k", int(k))));
    out.push(case("sinkhorn", vec![probabilities.clone()], none()));
    out.push(case("sinkhorn", vec![probabilities.clone()], none().with("rounds", int(3))));
    let two = vec![probabilities, choices.clone()];
    out.push(Case { ids: experts, ..case("take_choices", two, none()) });
    let to = none().with("dim", s("experts")).with("size", int(experts));
    let two = vec![weights.clone(), choices.clone()];
    out.push(Case { ids: experts, ..case("put_choices", two, to) });
    let of = none().with("experts", int(experts));
    let one = vec![choices.clone()];
    out.push(Case { ids: experts, ..case("expert_load", one.clone(), of.clone()) });
    // Few enough slots that some choices are dropped, and some slots stay empty.
    let slots = of.clone().with("capacity", int((t * k).div_ceil(experts)));
    let owned = of.with("owners", int(owners));
    for (op, attrs) in [("expert_slots", slots), ("expert_rows", owned)] {
        let routing = Case { ids: experts, ..case(op, one.clone(), attrs) };
        let places =
            run_function(&Module::new(), &function(&routing), &inputs(&routing, r)).unwrap();
        out.push(routing);
        let (position, source) = (places[0].clone(), places[1].clone());
        let mut wide = source.ty.with_dtype(DType::F32);
        wide.dims.push(Dim::new("embed", e));
        for weighted in [false, true] {
            for (op, values) in [("dispatch", &x), ("combine", &wide)] {
                let mut all = vec![values.clone(), position.ty.clone(), source.ty.clone()];
                all.extend(weighted.then(|| weights.clone()));
                let given = vec![(1, position.clone()), (2, source.clone())];
                out.push(Case { given, ..case(op, all, none()) });
            }
        }
        let three = vec![x.clone(), wide.clone(), position.ty.clone()];
        out.push(Case { given: vec![(2, position)], ..case("route_dot", three, none()) });
        let [_, _, starts, counts] = &places[..] else { continue };
        let ranges = |first| vec![(first, starts.clone()), (first + 1, counts.clone())];
        let with = |mut all: Vec<TensorType>| {
            all.extend([starts.ty.clone(), counts.ty.clone()]);
            all
        };
        let (owner, local) = (("owner", owners), ("local", local));
        let side = [("ffn", f)];
        let w = TensorType::f32(&[owner, local, side[0], ("embed", e)]);
        let back = TensorType::f32(&[owner, local, ("embed", e), side[0]]);
        for w in [w, back] {
            let contract = none().with("contract", s("embed"));
            let all = with(vec![wide.clone(), w]);
            out.push(Case { given: ranges(2), ..case("grouped_matmul", all, contract) });
        }
        let mut other = wide.clone();
        other.dims[3] = Dim::new(side[0].0, side[0].1);
        let all = with(vec![other, wide.clone()]);
        out.push(Case { given: ranges(2), ..case("grouped_weight", all, none()) });
        let bias = TensorType::f32(&[owner, local, ("embed", e)]);
        let rows = none().with("rows", int(t * k));
        out.push(Case { given: ranges(1), ..case("expand_rows", with(vec![bias]), rows) });
        out.push(Case { given: ranges(1), ..case("sum_rows", with(vec![wide]), none()) });
    }
    let aux = TensorType::f32(&[("group", g)]);
    let coefficient = none().with("coefficient", Attr::Float(AUX));
    out.push(case("aux_loss", vec![x, aux], coefficient));
}

/// Weight of the loss in the case of `aux_loss`.
const AUX: f64 = 0.37;

fn function(c: &Case) -> Function {
    let mut f = Function::new("f");
    let params: Vec<_> = c
        .operands
        .iter()
        .enumerate()
        .map(|(i, t)| f.add_param(&format!("p{i}"), t.clone(), Attrs::new()))
        .collect();
    f.results = Builder::new(&mut f)
        .named(c.op, &params, c.attrs.clone())
        .unwrap_or_else(|e| panic!("{}: {e}", c.op));
    f
}

fn inputs(c: &Case, r: &mut Random) -> Vec<Tensor> {
    c.operands
        .iter()
        .enumerate()
        .map(|(i, t)| match (c.given.iter().find(|(at, _)| *at == i), t.dtype) {
            (Some((_, given)), _) => given.clone(),
            (None, DType::I32) => Tensor::from_fn(t.clone(), |_| (r.next() % c.ids as u64) as f64),
            (None, _) => Tensor::from_fn(t.clone(), |_| r.unit() + c.shift),
        })
        .collect()
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
}

#[test]
fn every_op_has_a_case() {
    let cases = cases(&mut Random(1));
    for op in OpKind::ALL {
        let covered = cases.iter().any(|c| c.op == op.name());
        assert!(
            covered || ["call", "map", "repeat"].contains(&op.name()),
            "{} has no case",
            op.name()
        );
    }
    assert!(OpKind::ALL.windows(2).all(|w| w[0].name() < w[1].name()), "registry is sorted");
}

#[test]
fn decompositions_compute_the_same() {
    let mut r = Random(2);
    for c in (0..4).flat_map(|_| cases(&mut r)).collect::<Vec<_>>() {
        let f = function(&c);
        let mut g = Function { results: vec![], ops: vec![], ..f.clone() };
        g.values.truncate(g.params.len());
        let params = g.params.clone();
        let kind = ops::find(c.op).unwrap();
        match kind.def().decompose(&mut Builder::new(&mut g), &params, &c.attrs).unwrap() {
            Decomposition::Primitive => continue,
            Decomposition::Values(values) => g.results = values,
        }
        let x = inputs(&c, &mut r);
        let module = Module::new();
        let (want, got) = (run_function(&module, &f, &x), run_function(&module, &g, &x));
        for (a, b) in want.unwrap().iter().zip(&got.unwrap()) {
            assert_eq!(a.ty, b.ty, "{}", c.op);
            let same = a.data.iter().zip(&b.data).all(|(a, b)| close(*a, *b, 1e-12));
            assert!(same, "{}: {:?} {:?}", c.op, a.data, b.data);
        }
    }
}

/// Sum of results weighted with `weights`.
fn objective(f: &Function, x: &[Tensor], weights: &[Tensor]) -> f64 {
    let y = run_function(&Module::new(), f, x).unwrap();
    y.iter().zip(weights).flat_map(|(y, w)| y.data.iter().zip(&w.data)).map(|(y, w)| y * w).sum()
}

#[test]
fn gradients_match_central_differences() {
    let mut r = Random(3);
    for c in (0..4).flat_map(|_| cases(&mut r)).collect::<Vec<_>>() {
        let f = function(&c);
        let x = inputs(&c, &mut r);
        // Statistics that only serve the backward pass get no cotangent.
        let secondary = [
            "layer_norm",
            "rms_norm",
            "attention",
            "dropout_attention",
            "cross_entropy",
            "linear_cross_entropy",
        ]
        .contains(&c.op);
        let weights: Vec<Tensor> = f
            .results
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let zero = secondary && i > 0;
                Tensor::from_fn(f.ty(*v).clone(), |_| if zero { 0.0 } else { r.unit() })
            })
            .collect();
        let mut g = f.clone();
        let op = g.ops[0].clone();
        let cotangents: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(i, w)| {
                (!(secondary && i > 0))
                    .then(|| g.add_param(&format!("dy{i}"), w.ty.clone(), Attrs::new()))
            })
            .collect();
        // Parameters of a function are numbered first in text only; values may come in any order.
        let rule = op.kind.def().gradient(&mut GradCx {
            op: &op,
            scale: None,
            cotangents: &cotangents,
            b: &mut Builder::new(&mut g),
        });
        let Gradient::Operands(grads) = rule.unwrap() else { continue };
        assert_eq!(grads.len(), c.operands.len(), "{}", c.op);
        g.results = grads.iter().flatten().copied().collect();
        let mut all = x.clone();
        all.extend(
            weights.iter().zip(&cotangents).filter(|(_, c)| c.is_some()).map(|(w, _)| w.clone()),
        );
        let got =
            run_function(&Module::new(), &g, &all).unwrap_or_else(|e| panic!("{}: {e}", c.op));
        let mut got = got.iter();
        for (i, grad) in grads.iter().enumerate() {
            if grad.is_none() {
                continue;
            }
            let d = got.next().unwrap();
            assert_eq!(d.ty, c.operands[i], "{} operand {i}", c.op);
            for e in 0..d.data.len() {
                let h = 1e-5;
                let mut moved = x.clone();
                moved[i].data[e] += h;
                let up = objective(&f, &moved, &weights);
                moved[i].data[e] -= 2.0 * h;
                let down = objective(&f, &moved, &weights);
                let want = match (c.op, i) {
                    // Not the derivative of its result, but of the loss that it stands for.
                    ("aux_loss", 1) => AUX,
                    _ => (up - down) / (2.0 * h),
                };
                assert!(close(d.data[e], want, 1e-6), "{} operand {i}: {} {want}", c.op, d.data[e]);
            }
        }
    }
}

#[test]
fn text_round_trips_and_the_verifier_agrees() {
    let mut r = Random(4);
    for c in (0..4).flat_map(|_| cases(&mut r)).collect::<Vec<_>>() {
        let mut f = function(&c);
        f.ops[0].loc = neoxc_ir::Loc::file("a \"b\".yml", 3, 7);
        let module = Module { attrs: Attrs::new(), functions: vec![f] };
        neoxc_ir::verify(&module).unwrap();
        let printed = text::print(&module);
        let parsed = text::parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(parsed, module);
        assert_eq!(text::print(&parsed), printed);
    }
}

#[test]
fn the_verifier_refuses_a_wrong_type() {
    for c in cases(&mut Random(5)) {
        let mut f = function(&c);
        let result = f.results[0];
        f.values[result.index()].ty.dims.push(Dim::new("extra", 2));
        let module = Module { attrs: Attrs::new(), functions: vec![f] };
        assert!(neoxc_ir::verify(&module).is_err(), "{}", c.op);
    }
}

#[test]
fn costs_and_sharding_rules_cover_all_dims() {
    for c in cases(&mut Random(6)) {
        let f = function(&c);
        let results: Vec<_> = f.results.iter().map(|v| f.ty(*v).clone()).collect();
        let cx = RuleCx { operands: &c.operands, results: &results, attrs: &c.attrs, module: None };
        let kind = ops::find(c.op).unwrap();
        let rule = kind.def().sharding(&cx);
        for d in c.operands.iter().chain(&results).flat_map(|t| &t.dims) {
            assert!(rule.effect(&d.name).is_some(), "{} says nothing of {}", c.op, d.name);
        }
        let cost = kind.def().cost(&cx);
        assert!(cost.flops >= 0.0 && cost.bytes >= 0.0, "{}", c.op);
    }
}

/// An op is one file, and each file of an op is in the registry.
#[test]
fn every_file_of_an_op_is_registered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops");
    let helpers = [
        "mod",
        "prelude",
        "docs",
        "decomposed",
        "norms",
        "pointwise",
        "rows",
        "collective",
        "part",
        "routing",
    ];
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string())
        .filter(|n| !helpers.contains(&n.as_str()))
        .collect();
    files.sort();
    let mut names: Vec<String> = OpKind::ALL.iter().map(|o| o.name().to_string()).collect();
    names.sort();
    assert_eq!(files, names);
}

#[test]
fn the_ops_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ops.md");
    let want = ops::docs::markdown();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &want).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), want, "run with UPDATE=1");
}

/// MLIR itself reads every op of ours through the generated dialect, and refuses a wrong one.
#[test]
fn mlir_opt_accepts_every_op() {
    let Ok(version) = std::process::Command::new("mlir-opt-22").arg("--version").output() else {
        eprintln!("skipped: mlir-opt-22 is not installed");
        return;
    };
    assert!(version.status.success());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("neox.irdl.mlir"), neoxc_ir::dialect::irdl()).unwrap();
    let run = |text: &str| {
        std::fs::write(at("m.mlir"), text).unwrap();
        std::process::Command::new("mlir-opt-22")
            .arg(format!("--irdl-file={}", at("neox.irdl.mlir").display()))
            .arg(at("m.mlir"))
            .output()
            .unwrap()
    };
    let mut functions = vec![];
    for (i, c) in cases(&mut Random(7)).iter().enumerate() {
        let mut f = function(c);
        f.name = format!("f{i}");
        f.ops[0].loc = neoxc_ir::Loc::Fused(vec![
            neoxc_ir::Loc::file("a.yml", 1, 2),
            neoxc_ir::Loc::file("b.yml", 3, 4),
        ]);
        functions.push(f);
    }
    let text = text::print(&Module { attrs: Attrs::new(), functions });
    let out = run(&text);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!run(&text.replace("neox.softmax", "neox.softmin")).status.success());
    assert!(!run(&text.replace("scale = ", "scales = ")).status.success());
}
