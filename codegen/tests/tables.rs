//! Kernels that number rows, tables and losses, against the reference evaluator: whole ones, and those of
//! which each rank has a part.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{F, Random, check, check_everywhere, inputs, kernel};
use neoxc_ir::{Attr, Attrs, DType, OpKind};

#[test]
fn rows_of_tables_and_losses() {
    let mut cases = vec![];
    for (i, (rows, width, classes)) in
        [(1, 1, 2), (5, 33, 61), (20, 16, 128), (300, 7, 203), (9, 3, 2500)].into_iter().enumerate()
    {
        let (table, ids) = ([("vocab", classes), ("embed", width)], [("batch", 1), ("seq", rows)]);
        let x = [("batch", 1), ("seq", rows), ("embed", width)];
        let logits = [("batch", 1), ("seq", rows), ("vocab", classes)];
        cases.push((
            kernel(
                &format!("gather{i}"),
                "gather_rows",
                &[(&table, F), (&ids, DType::I32)],
                |k, p| vec![k.one(OpKind::Gather, p, Attrs::new()).unwrap()],
            ),
            classes,
        ));
        let to = Attrs::new()
            .with("dim", Attr::Str("vocab".into()))
            .with("size", Attr::Int(classes as i64));
        let three = [(&ids[..], DType::I32), (&x[..], F), (&table[..], F)];
        let alone = kernel(&format!("scatter_alone{i}"), "scatter_rows", &three[..2], |k, p| {
            vec![k.one(OpKind::ScatterAdd, p, to.clone()).unwrap()]
        });
        let mut onto = kernel(&format!("scatter{i}"), "scatter_rows", &three, |k, p| {
            let s = k.one(OpKind::ScatterAdd, &p[..2], to).unwrap();
            vec![k.add(p[2], s).unwrap()]
        });
        onto.attrs.set("neox.inplace", Attr::ints(&[0, 2]));
        cases.extend([(alone, classes), (onto, classes)]);
        let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
        let three = [(&logits[..], F), (&ids[..], DType::I32), (&ids[..], F)];
        cases.push((
            kernel(&format!("loss{i}"), "cross_entropy", &three, |k, p| {
                let l = k.op(OpKind::CrossEntropy, &p[..2], over.clone()).unwrap();
                let d = k.one(OpKind::CrossEntropyGrad, &[p[0], p[1], l[1], p[2]], over).unwrap();
                vec![l[0], l[1], d]
            }),
            classes,
        ));
    }
    check(&cases, 2e-6);
}

/// Tables and rows of logits of which each of three ranks has a third: ids of all, one part's results.
#[test]
fn parts_of_tables_and_losses() {
    let i32s = DType::I32;
    let mut cases = vec![];
    for (i, (rows, width, classes)) in
        [(1, 1, 1), (5, 33, 21), (40, 16, 48), (4, 3, 1030)].into_iter().enumerate()
    {
        let (table, ids) = ([("vocab", classes), ("embed", width)], [("batch", 1), ("seq", rows)]);
        let x = [("batch", 1), ("seq", rows), ("embed", width)];
        let logits = [("batch", 1), ("seq", rows), ("vocab", classes)];
        let part = [("rank", 1)];
        let three = [(&table[..], F), (&ids[..], i32s), (&part[..], i32s)];
        cases.push((
            kernel(&format!("gather_part{i}"), "gather_rows", &three, |k, p| {
                vec![k.one(OpKind::Gather, p, Attrs::new()).unwrap()]
            }),
            3 * classes,
        ));
        let to = Attrs::new()
            .with("dim", Attr::Str("vocab".into()))
            .with("size", Attr::Int(classes as i64));
        let four = [(&ids[..], i32s), (&x[..], F), (&part[..], i32s), (&table[..], F)];
        cases.push((
            kernel(&format!("scatter_part{i}"), "scatter_rows", &four, |k, p| {
                let s = k.one(OpKind::ScatterAdd, &p[..3], to).unwrap();
                vec![k.add(p[3], s).unwrap()]
            }),
            3 * classes,
        ));
        let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
        let three = [(&logits[..], F), (&ids[..], i32s), (&part[..], i32s)];
        cases.push((
            kernel(&format!("loss_part{i}"), "cross_entropy", &three, |k, p| {
                vec![k.one(OpKind::CrossEntropyPart, p, over.clone()).unwrap()]
            }),
            3 * classes,
        ));
        let five =
            [(&logits[..], F), (&ids[..], i32s), (&ids[..], F), (&ids[..], F), (&part[..], i32s)];
        cases.push((
            kernel(&format!("loss_grad_part{i}"), "cross_entropy", &five, |k, p| {
                vec![k.one(OpKind::CrossEntropyGrad, p, over.clone()).unwrap()]
            }),
            3 * classes,
        ));
        let stats = [("rank", i + 1), ("batch", 1), ("seq", rows), ("stat", 3)];
        cases.push((
            kernel(&format!("loss_join{i}"), "cross_entropy", &[(&stats, F)], |k, p| {
                k.op(OpKind::CrossEntropyJoin, p, Attrs::new()).unwrap()
            }),
            1,
        ));
        cases.push((
            kernel(&format!("numbers{i}"), "iota", &[], |k, _| {
                let attrs = Attrs::new()
                    .with("dim", Attr::Str("rank".into()))
                    .with("size", Attr::Int(7 * i as i64 + 1));
                vec![k.one(OpKind::Iota, &[], attrs).unwrap()]
            }),
            1,
        ));
    }
    check(&cases, 2e-6);
}

/// Rows longer than a block of logits, whose largest so far rises from block to block, falls far behind, or is minus infinity.
#[test]
fn losses_of_long_rows() {
    let (rows, classes) = (4, 2500);
    let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
    let (logits, ids) = ([("seq", rows), ("vocab", classes)], [("seq", rows)]);
    let three = [(&logits[..], F), (&ids[..], DType::I32), (&ids[..], F)];
    let f = kernel("long", "cross_entropy", &three, |k, p| {
        let l = k.op(OpKind::CrossEntropy, &p[..2], over.clone()).unwrap();
        let d = k.one(OpKind::CrossEntropyGrad, &[p[0], p[1], l[1], p[2]], over).unwrap();
        vec![l[0], l[1], d]
    });
    let mut x = inputs(&f, classes, &mut Random(5));
    for (i, v) in x[0].data.iter_mut().enumerate() {
        let at = (i % classes) as f64;
        *v = match i / classes {
            0 => 32.0 * *v,
            1 => *v + (at / 8.0).floor(),
            2 => *v - (at / 8.0).floor(),
            _ if at < 1500.0 => f64::NEG_INFINITY,
            _ => *v,
        };
        *v = f64::from(*v as f32);
    }
    // A label that has a probability.
    x[1].data[3] = 2000.0;
    check_everywhere(&[(f, x)], 2e-6);
}
