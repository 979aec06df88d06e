//! The checker of placements against every timing of collectives: random programs with random places, waits and
//! starts are executed with each half of each collective done at its start, at its wait, or somewhere between.
//! The checker refuses exactly those in which some timing lets an op see, or leave, another value.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::BTreeMap;

use common::Random;
use neoxc_ir::{Attr, Attrs, Function, Loc, Module, Op, OpKind, TensorType, ValueId, ops};
use neoxc_passes::place_memory::{Place, check};

/// Elements of a small value; large ones have twice as many.
const N: usize = 8;

fn ty(elements: usize) -> TensorType {
    TensorType::f32(&[("n", elements)])
}

fn op(kind: &str, operands: Vec<ValueId>, result: ValueId, attrs: Attrs) -> Op {
    let kind = ops::find(kind).unwrap();
    Op { kind, operands, results: vec![result], attrs, loc: Loc::Unknown }
}

/// Kernels that may write their result over the first operand, collectives, waits; every value has bytes of
/// its own.
fn program(r: &mut Random) -> Module {
    let mut f = Function::new("train_step");
    let mut values = vec![];
    let mut next = 0;
    let mut place = |elements: usize| {
        let at = format!("arena+{next}");
        next += 4 * elements;
        Attr::strs(&[at])
    };
    for n in 0..2 {
        let p = place(N);
        values.push(f.add_param(&format!("p{n}"), ty(N), Attrs::new().with("neox.place", p)));
    }
    // Collectives on their way, and in how many ops they are waited for.
    let mut under_way: Vec<(ValueId, u64)> = vec![];
    for step in 0..9 {
        under_way.iter_mut().for_each(|u| u.1 = u.1.saturating_sub(1));
        while let Some(at) = under_way.iter().position(|u| u.1 == 0 || step == 8) {
            let (v, _) = under_way.remove(at);
            let same = f.ops.iter().find(|o| o.results[0] == v).unwrap().attrs.get("neox.place");
            let attrs = Attrs::new().with("neox.place", same.unwrap().clone());
            let there = f.add_value(f.ty(v).clone());
            f.ops.push(op("wait", vec![v], there, attrs));
            values.push(there);
        }
        let mut some = |f: &Function, elements: Option<usize>| {
            let fit: Vec<ValueId> = values
                .iter()
                .copied()
                .filter(|v| elements.is_none_or(|n| f.ty(*v).elements() == n))
                .collect();
            // Rather a recent one.
            let back = (r.next() % 3).min(fit.len() as u64 - 1) as usize;
            fit[fit.len() - 1 - back]
        };
        let a = some(&f, None);
        let n = f.ty(a).elements();
        let kind = ["call", "all_reduce", if n == N { "all_gather" } else { "reduce_scatter" }]
            [(r.next() % 3) as usize];
        let size = match kind {
            "all_gather" => 2 * N,
            "reduce_scatter" => N,
            _ => n,
        };
        let result = f.add_value(ty(size));
        let attrs = Attrs::new().with("neox.place", place(size));
        if kind == "call" {
            let mut some = |n| {
                let fit: Vec<ValueId> =
                    values.iter().copied().filter(|v| f.ty(*v).elements() == n).collect();
                fit[(r.next() % fit.len() as u64) as usize]
            };
            let b = some(n);
            let attrs = attrs.with("callee", Attr::Symbol("k".into()));
            f.ops.push(op("call", vec![a, b], result, attrs));
            values.push(result);
            continue;
        }
        f.ops.push(op(kind, vec![a], result, attrs));
        match r.next() % 4 {
            0 => values.push(result),
            n => under_way.push((result, n)),
        }
    }
    f.results = vec![*values.last().unwrap()];
    let mut k = Function::new("k");
    k.attrs.set("neox.kernel", Attr::Str("rowwise".into()));
    k.attrs.set("neox.inplace", Attr::ints(&[0, 0]));
    Module { attrs: Attrs::new(), functions: vec![k, f] }
}

/// Makes something else of a program: another place, a later wait, an earlier or a later op.
fn mutate(m: &mut Module, r: &mut Random) {
    let f = m.function_mut("train_step").unwrap();
    let n = f.ops.len() as u64;
    let at = (r.next() % n) as usize;
    if !r.next().is_multiple_of(3) {
        // The bytes of another value, perhaps shifted; waits have those of their collective.
        let from = (r.next() % n) as usize;
        let place = f.ops[from].attrs.strs("neox.place").unwrap()[0].to_string();
        let mut place = Place::parse(&place).unwrap();
        place.offset += [0, 0, 0, 16, 32][(r.next() % 5) as usize];
        let place = Attr::strs(&[place.to_string()]);
        let v = f.ops[at].results[0];
        let made = match f.ops[at].kind == OpKind::Wait {
            true => f.ops[at].operands[0],
            false => v,
        };
        for op in &mut f.ops {
            if op.results[0] == made || (op.kind == OpKind::Wait && op.operands[0] == made) {
                op.attrs.set("neox.place", place.clone());
            }
        }
        return;
    }
    // Elsewhere, where its operands are there and its result is not yet used.
    let moved = f.ops.remove(at);
    let made = |v: &ValueId| f.ops.iter().position(|o| o.results.contains(v)).map_or(0, |i| i + 1);
    let first = moved.operands.iter().map(made).max().unwrap_or(0);
    let last = f.ops.iter().position(|o| o.operands.contains(&moved.results[0]));
    let last = last.unwrap_or(f.ops.len());
    let to = first + (r.next() % (last - first + 1) as u64) as usize;
    f.ops.insert(to, moved);
}

fn hash(parts: &[u64]) -> u64 {
    parts
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, x| (h ^ x).wrapping_mul(0x100_0000_01b3).rotate_left(23))
}

/// What element `i` of an op's result is: of kernels and all-reduces it needs element `i` of the first
/// operand, and everything of all others.
fn element(
    op: &Op,
    number: u64,
    i: usize,
    read: &dyn Fn(usize, usize) -> u64,
    sizes: &[usize],
) -> u64 {
    let alone = op.kind == OpKind::Call || op.kind == OpKind::AllReduce;
    let mut parts = vec![number, i as u64];
    for (n, size) in sizes.iter().enumerate() {
        match alone && n == 0 {
            true => parts.push(read(0, i)),
            false => parts.extend((0..*size).map(|j| read(n, j))),
        }
    }
    hash(&parts)
}

struct Machine<'a> {
    f: &'a Function,
    at: BTreeMap<ValueId, usize>,
    want: BTreeMap<ValueId, Vec<u64>>,
    memory: Vec<u64>,
    wrong: bool,
}

impl Machine<'_> {
    fn holds(&self, v: ValueId) -> bool {
        let want = &self.want[&v];
        self.memory[self.at[&v]..][..want.len()] == want[..]
    }

    /// Makes a half of an op's result (0, 1), or all of it (2), element by element in one order or the other.
    fn make(&mut self, number: usize, half: usize, backwards: bool) {
        let f = self.f;
        let op = &f.ops[number];
        let n = f.ty(op.results[0]).elements();
        let mut tasks: Vec<usize> = (0..n).filter(|i| half == 2 || i * 2 / n == half).collect();
        if backwards {
            tasks.reverse();
        }
        let sizes: Vec<usize> = op.operands.iter().map(|v| f.ty(*v).elements()).collect();
        for i in tasks {
            let read = |operand: usize, j: usize| self.memory[self.at[&op.operands[operand]] + j];
            let x = element(op, number as u64, i, &read, &sizes);
            let to = self.at[&op.results[0]] + i;
            self.memory[to] = x;
        }
    }
}

/// Whether some timing of a program's collectives goes wrong. `times` says for each half of each collective how
/// many ops behind its start it is done; the wait comes first in any case.
fn goes_wrong(m: &Module, times: &dyn Fn(usize, usize) -> usize, backwards: bool) -> bool {
    let f = m.function("train_step").unwrap();
    let word =
        |a: &Attrs| Place::parse(a.strs("neox.place").unwrap()[0]).unwrap().offset as usize / 4;
    let mut x =
        Machine { f, at: BTreeMap::new(), want: BTreeMap::new(), memory: vec![], wrong: false };
    x.memory = (0..4096).map(|i| hash(&[i, 7])).collect();
    for (n, (p, a)) in f.params.iter().zip(&f.param_attrs).enumerate() {
        x.at.insert(*p, word(a));
        x.want.insert(*p, (0..N).map(|i| hash(&[n as u64, i as u64, 99])).collect());
        x.memory[word(a)..word(a) + N].copy_from_slice(&x.want[p].clone());
    }
    for (number, op) in f.ops.iter().enumerate() {
        let v = op.results[0];
        x.at.insert(v, word(&op.attrs));
        if op.kind == OpKind::Wait {
            x.want.insert(v, x.want[&op.operands[0]].clone());
            continue;
        }
        let sizes: Vec<usize> = op.operands.iter().map(|o| f.ty(*o).elements()).collect();
        let read = |operand: usize, j: usize| x.want[&op.operands[operand]][j];
        let n = f.ty(v).elements();
        let made = (0..n).map(|i| element(op, number as u64, i, &read, &sizes)).collect();
        x.want.insert(v, made);
    }
    // Halves that are still to be made: of which op, and when.
    let mut under_way: Vec<(usize, usize, usize)> = vec![];
    let waited = |v: ValueId| f.ops.iter().any(|o| o.kind == OpKind::Wait && o.operands[0] == v);
    for (number, op) in f.ops.iter().enumerate() {
        if op.kind == OpKind::Wait {
            let of = f.ops.iter().position(|o| o.results == op.operands).unwrap();
            while let Some(at) = under_way.iter().position(|u| u.0 == of) {
                let (number, half, _) = under_way.remove(at);
                x.make(number, half, backwards);
            }
            x.wrong |= !x.holds(op.operands[0]);
        } else {
            x.wrong |= op.operands.iter().any(|v| !x.holds(*v));
            match waited(op.results[0]) {
                false => {
                    x.make(number, 2, backwards);
                    x.wrong |= !x.holds(op.results[0]);
                }
                true => under_way.extend([0, 1].map(|h| (number, h, number + times(number, h)))),
            }
        }
        while let Some(at) = under_way.iter().position(|u| u.2 <= number) {
            let (number, half, _) = under_way.remove(at);
            x.make(number, half, backwards);
        }
    }
    x.wrong || f.results.iter().any(|v| !x.holds(*v))
}

#[test]
fn what_some_timing_breaks_is_refused_and_nothing_else() {
    let (mut fine, mut refused) = (0, 0);
    for seed in 0..250 {
        let mut r = Random(seed);
        let mut m = program(&mut r);
        assert_eq!(check(&m, "train_step"), Ok(()), "seed {seed}");
        for _ in 0..1 + r.next() % 3 {
            mutate(&mut m, &mut r);
        }
        // Each half at once or as late as can be, in all combinations; and some times between.
        let collectives: Vec<usize> = {
            let f = m.function("train_step").unwrap();
            let waits = f.ops.iter().filter(|o| o.kind == OpKind::Wait).map(|o| o.operands[0]);
            waits.map(|v| f.ops.iter().position(|o| o.results[0] == v).unwrap()).collect()
        };
        let bit = |number: usize, half: usize| {
            2 * collectives.iter().position(|e| *e == number).unwrap() + half
        };
        let all = 1usize << (2 * collectives.len()).min(8);
        let wrong = (0..all).any(|choice| {
            let times = |number, half| 100 * (choice >> (bit(number, half) % 8) & 1);
            goes_wrong(&m, &times, false) || goes_wrong(&m, &times, true)
        }) || (0..20).any(|_| {
            let some: Vec<usize> = (0..64).map(|_| (r.next() % 6) as usize).collect();
            goes_wrong(&m, &|number, half| some[bit(number, half) % 64], false)
        });
        let got = check(&m, "train_step");
        assert_eq!(got.is_err(), wrong, "seed {seed}: {got:?}\n{}", neoxc_ir::text::print(&m));
        match wrong {
            true => refused += 1,
            false => fine += 1,
        }
    }
    assert!(fine > 40 && refused > 40, "{fine} are fine, {refused} are refused");
}
