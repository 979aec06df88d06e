//! Kernels written by hand: what they compute, in every order, and what is found when a line of them is taken away.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_sim::{Argument, Counts, Grid, Memory, Module, Order, Problem, SimError, launch};

const ORDERS: [Order; 5] =
    [Order::Forward, Order::Backward, Order::Seeded(7), Order::Seeded(8), Order::Seeded(9)];

const HEAD: &str = ".version 7.0\n.target sm_80\n.address_size 64\n";

/// A kernel with one parameter `data`, registers of each kind, and this body.
fn kernel(body: &str) -> Module {
    Module::parse(&text(body)).unwrap()
}

fn text(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 .ptr .align 1 data)\n{{\n.reg .pred %p<9>;\n\
         .reg .b16 %rs<9>;\n.reg .b32 %r<40>;\n.reg .b64 %rd<9>;\n\
         .shared .align 16 .b8 tile[4096];\n\
         ld.param.b64 %rd1, [data];\ncvta.to.global.u64 %rd1, %rd1;\nmov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    )
}

fn grid(blocks: u32, threads: u32) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads: [threads, 1, 1], shared: 0 }
}

fn run(
    module: &Module,
    grid: Grid,
    data: &[u32],
    order: Order,
) -> Result<(Vec<u32>, Counts), SimError> {
    let mut memory = Memory::default();
    let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let at = memory.allocate(&bytes);
    let kernel = module.kernel("k").unwrap();
    let counts = launch(kernel, &grid, &[Argument::Long(at)], &mut memory, order)?;
    let out = memory.read(at, bytes.len())?;
    Ok((out.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect(), counts))
}

/// The same result in every order.
fn in_every_order(module: &Module, grid: Grid, data: &[u32]) -> Vec<u32> {
    let mut all = ORDERS.map(|o| run(module, grid, data, o).unwrap().0).into_iter();
    let first = all.next().unwrap();
    assert!(all.all(|other| other == first));
    first
}

/// What goes wrong in every order.
fn problem(module: &Module, grid: Grid, data: &[u32]) -> (Problem, u32) {
    let found = ORDERS.map(|o| match run(module, grid, data, o) {
        Err(SimError::Fault(f)) => (f.problem, f.line),
        other => panic!("no fault in order {o:?}: {other:?}"),
    });
    found[0]
}

/// Lanes leave a loop at different turns and meet behind it: Collatz's numbers of steps.
#[test]
fn lanes_branch_apart_and_meet() {
    let module = kernel(
        "mad.lo.s32 %r9, %ctaid.x, 64, %r1;\nmul.wide.u32 %rd2, %r9, 4;\nadd.s64 %rd1, %rd1, %rd2;\n\
         ld.global.b32 %r2, [%rd1];\nmov.u32 %r3, 0;\n\
         $L: setp.eq.s32 %p1, %r2, 1;\n@%p1 bra $END;\nand.b32 %r4, %r2, 1;\n\
         setp.eq.b32 %p2, %r4, 0;\n@%p2 bra $EVEN;\nmad.lo.s32 %r2, %r2, 3, 1;\nbra.uni $NEXT;\n\
         $EVEN: shr.u32 %r2, %r2, 1;\n$NEXT: add.s32 %r3, %r3, 1;\nbra $L;\n\
         $END: st.global.b32 [%rd1], %r3;",
    );
    let data: Vec<u32> = (0..128).map(|i| i * 7 % 97 + 1).collect();
    let steps = |mut n: u32| {
        let mut count = 0;
        while n != 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            count += 1;
        }
        count
    };
    let want: Vec<u32> = data.iter().map(|n| steps(*n)).collect();
    assert_eq!(in_every_order(&module, grid(2, 64), &data), want);
}

/// Each thread writes its word of shared memory and reads that of the thread opposite, behind a barrier.
const REVERSE: &str = "mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd2, %rd1, %rd2;\n\
     ld.global.b32 %r2, [%rd2];\nshl.b32 %r3, %r1, 2;\nmov.u32 %r4, tile;\nadd.s32 %r3, %r3, %r4;\n\
     st.shared.b32 [%r3], %r2;\nbar.sync 0;\nsub.s32 %r5, 508, %r3;\nld.shared.b32 %r6, [%r5];\n\
     st.global.b32 [%rd2], %r6;";

#[test]
fn a_barrier_orders_shared_memory_and_its_absence_is_a_race() {
    let data: Vec<u32> = (100..228).collect();
    let want: Vec<u32> = data.iter().rev().copied().collect();
    assert_eq!(in_every_order(&kernel(REVERSE), grid(1, 128), &data), want);

    // Without it a word was not written yet, or its write is not ordered; which of the two is the order's.
    let without = kernel(&REVERSE.replace("bar.sync 0;\n", ""));
    let (found, line) = problem(&without, grid(1, 128), &data);
    assert!(matches!(found, Problem::Unwritten { .. } | Problem::Race { .. }), "{found}");
    assert!(
        text(REVERSE)
            .replace("bar.sync 0;\n", "")
            .lines()
            .nth(line as usize - 1)
            .unwrap()
            .starts_with("ld.shared")
    );
    // One warp would do in lockstep, and need not on a card.
    let (found, _) = problem(&without, grid(1, 32), &data);
    assert!(matches!(found, Problem::Unwritten { .. }), "{found}");
    let of_warp = kernel(&REVERSE.replace("bar.sync 0", "bar.warp.sync -1").replace("508", "124"));
    let want: Vec<u32> = (100..132).rev().collect();
    assert_eq!(in_every_order(&of_warp, grid(1, 32), &data)[..32], want);
    let none = kernel(&REVERSE.replace("bar.sync 0;\n", "").replace("508", "124"));
    let (found, _) = problem(&none, grid(1, 32), &data);
    assert!(matches!(found, Problem::Race { now: "read", before: "write", .. }), "{found}");
    // A second round would overwrite what others still read.
    let again = REVERSE.replace("st.global", "st.shared.b32 [%r3], %r6;\nst.global");
    let (found, _) = problem(&kernel(&again), grid(1, 128), &data);
    assert!(matches!(found, Problem::Race { .. }), "{found}");
}

#[test]
fn a_barrier_that_not_all_reach_is_named() {
    let half = REVERSE.replace("bar.sync 0", "setp.lt.u32 %p1, %r1, 64;\n@%p1 bar.sync 0");
    let (found, _) = problem(&kernel(&half), grid(1, 128), &[0; 128]);
    assert!(
        matches!(
            found,
            Problem::Unwritten { .. } | Problem::Race { .. } | Problem::Deadlock { .. }
        ),
        "{found}"
    );
    let lanes = kernel("setp.lt.u32 %p1, %r1, 7;\n@%p1 bar.sync 0;");
    let (found, _) = problem(&lanes, grid(1, 32), &[0]);
    assert_eq!(found, Problem::Diverged { lanes: 0x7f, live: !0 });
    let alone = kernel("setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $L;\nbar.sync 0;\n$L: ret;");
    let (found, _) = problem(&alone, grid(1, 64), &[0]);
    assert_eq!(found, Problem::Deadlock { barrier: 0, arrived: 32, expected: 64 });
    let differ = kernel(
        "shr.u32 %r2, %r1, 5;\nadd.s32 %r2, %r2, 1;\nshl.b32 %r2, %r2, 6;\nbar.sync 1, %r2;",
    );
    let (found, _) = problem(&differ, grid(1, 64), &[0]);
    assert!(matches!(found, Problem::Disagree { barrier: 1, .. }), "{found}");
}

/// A producer's warp arrives at barrier 1 and goes on; a consumer's waits there.
#[test]
fn arrivals_tell_what_was_written() {
    let body = "setp.ge.u32 %p1, %r1, 32;\nshl.b32 %r2, %r1, 2;\n@%p1 bra $CONSUMER;\n\
         st.shared.b32 [%r2], %r1;\nbar.arrive 1, 64;\nbra.uni $END;\n\
         $CONSUMER: bar.sync 1, 64;\nld.shared.b32 %r3, [%r2+-128];\nmul.wide.u32 %rd2, %r1, 4;\n\
         add.s64 %rd2, %rd1, %rd2;\nst.global.b32 [%rd2+-128], %r3;\n$END:";
    let want: Vec<u32> = (0..32).collect();
    assert_eq!(in_every_order(&kernel(body), grid(1, 64), &[9; 32]), want);
    let (found, _) = problem(
        &kernel(&body.replace("$CONSUMER: bar.sync 1, 64;", "$CONSUMER:")),
        grid(1, 64),
        &[9; 32],
    );
    assert!(matches!(found, Problem::Unwritten { .. } | Problem::Race { .. }), "{found}");
}

/// Two stages of asynchronous copies; each thread reads what its neighbour of the next warp copied.
const COPIES: &str = "mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd2, %rd1, %rd2;\nshl.b32 %r2, %r1, 2;\n\
     cp.async.ca.shared.global [%r2], [%rd2], 4;\ncp.async.commit_group;\n\
     cp.async.ca.shared.global [%r2+256], [%rd2+256], 4;\ncp.async.commit_group;\n\
     xor.b32 %r3, %r2, 128;\ncp.async.wait_group 1;\nbar.sync 0;\nld.shared.b32 %r4, [%r3];\n\
     cp.async.wait_group 0;\nbar.sync 0;\nld.shared.b32 %r5, [%r3+256];\n\
     add.s32 %r4, %r4, %r5;\nst.global.b32 [%rd2], %r4;";

#[test]
fn copies_are_waited_for_and_told() {
    let data: Vec<u32> = (0..128).map(|i| i * i).collect();
    let want: Vec<u32> = (0..64).map(|i: usize| data[i ^ 32] + data[(i ^ 32) + 64]).collect();
    assert_eq!(in_every_order(&kernel(COPIES), grid(1, 64), &data)[..64], want);
    // The first wait lets the group fly that is read.
    let (found, _) =
        problem(&kernel(&COPIES.replace("wait_group 1", "wait_group 2")), grid(1, 64), &data);
    assert!(matches!(found, Problem::InFlight { .. }), "{found}");
    let (found, _) =
        problem(&kernel(&COPIES.replace("cp.async.wait_group 0;\n", "")), grid(1, 64), &data);
    assert!(matches!(found, Problem::InFlight { .. }), "{found}");
    // Waited for, but not told: the neighbour's copy flies still, or has landed without an order, or has not begun.
    let untold = COPIES.replacen("bar.sync 0;\n", "", 1);
    let (found, _) = problem(&kernel(&untold), grid(1, 64), &data);
    let unordered = |p| {
        matches!(p, Problem::InFlight { .. } | Problem::Race { .. } | Problem::Unwritten { .. })
    };
    assert!(unordered(found), "{found}");
    let last = COPIES.find("cp.async.wait_group 0").unwrap();
    let (found, _) = problem(&kernel(&COPIES[..last]), grid(1, 64), &data);
    assert_eq!(found, Problem::Abandoned(32));
}

/// A copy with a size below its bytes fills up with zeros, and reads nothing beyond.
#[test]
fn a_short_copy_ends_in_zeros() {
    let body = "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra $ALL;\ncp.async.cg.shared.global [tile], [%rd1], 16, 4;\n\
         $ALL: cp.async.commit_group;\ncp.async.wait_all;\nbar.sync 0;\n@%p1 bra $END;\n\
         ld.shared.v4.b32 {%r2, %r3, %r4, %r5}, [tile];\nst.global.v2.b32 [%rd1], {%r2, %r5};\n$END:";
    assert_eq!(in_every_order(&kernel(body), grid(1, 32), &[5, 6]), [5, 0]);
}

/// A matmul by `ldmatrix` and `mma`, each stored row by row: A [16, 16], B [8, 16] (columns of the
/// factor), and D [16, 8].
#[test]
fn matrix_units_multiply() {
    let body = "mul.wide.u32 %rd2, %r1, 16;\nadd.s64 %rd2, %rd1, %rd2;\nshl.b32 %r2, %r1, 4;\n\
         ld.global.v4.b32 {%r3, %r4, %r5, %r6}, [%rd2];\nst.shared.v4.b32 [%r2], {%r3, %r4, %r5, %r6};\n\
         setp.ge.u32 %p1, %r1, 16;\n@%p1 bra $NO;\nld.global.v4.b32 {%r3, %r4, %r5, %r6}, [%rd2+512];\n\
         st.shared.v4.b32 [%r2+512], {%r3, %r4, %r5, %r6};\n$NO: bar.sync 0;\n\
         and.b32 %r7, %r1, 15;\nshl.b32 %r7, %r7, 5;\nshr.u32 %r8, %r1, 4;\nshl.b32 %r8, %r8, 4;\n\
         add.s32 %r7, %r7, %r8;\n\
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r7];\n\
         and.b32 %r7, %r1, 7;\nshl.b32 %r7, %r7, 5;\nshr.u32 %r8, %r1, 3;\nand.b32 %r8, %r8, 1;\nshl.b32 %r8, %r8, 4;\n\
         add.s32 %r7, %r7, %r8;\n\
         ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r14, %r15}, [%r7+512];\n\
         mov.f32 %r20, 0f3F800000;\nmov.f32 %r21, 0f00000000;\n\
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r22, %r23, %r24, %r25}, \
         {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%r20, %r21, %r21, %r21};\n\
         shr.u32 %r30, %r1, 2;\nand.b32 %r31, %r1, 3;\nshl.b32 %r30, %r30, 5;\nshl.b32 %r31, %r31, 3;\n\
         add.s32 %r30, %r30, %r31;\ncvt.u64.u32 %rd3, %r30;\nadd.s64 %rd3, %rd1, %rd3;\n\
         st.global.v2.b32 [%rd3+768], {%r22, %r23};\nst.global.v2.b32 [%rd3+1024], {%r24, %r25};";
    let number = |i: usize| (i * 37 % 11) as f32 - 5.0;
    let a: Vec<f32> = (0..256).map(number).collect();
    let b: Vec<f32> = (0..128).map(|i| number(i + 3)).collect();
    let halves: Vec<u32> = a.iter().chain(&b).map(|x| x.to_bits() >> 16).collect();
    let mut data: Vec<u32> = halves.chunks(2).map(|h| h[1] << 16 | h[0]).collect();
    data.extend([0; 128]);
    let out = in_every_order(&kernel(body), grid(1, 32), &data);
    for (i, got) in out[192..].iter().enumerate() {
        let (row, column) = (i / 8, i % 8);
        let sum: f32 = (0..16).map(|k| a[row * 16 + k] * b[column * 16 + k]).sum();
        // The first register of C is one: rows below 8, even columns.
        let start = f32::from(u8::from(row < 8 && column % 2 == 0));
        assert_eq!(f32::from_bits(*got), sum + start, "[{row}, {column}]");
    }
}

#[test]
fn lanes_exchange_registers() {
    let body = |how: &str| {
        format!(
            "mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd2, %rd1, %rd2;\nmov.u32 %r2, %r1;\n\
             shfl.sync.{how}, -1;\nselp.b32 %r4, %r3, 99, %p1;\nst.global.b32 [%rd2], %r4;"
        )
    };
    let lanes = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    for (how, want) in [
        ("bfly.b32 %r3|%p1, %r2, 5, 31", lanes(&|l| l ^ 5)),
        ("up.b32 %r3|%p1, %r2, 3, 0", lanes(&|l| if l < 3 { 99 } else { l - 3 })),
        ("down.b32 %r3|%p1, %r2, 3, 31", lanes(&|l| if l > 28 { 99 } else { l + 3 })),
        // Segments of 8 lanes: clamp 31 and mask 24.
        ("idx.b32 %r3|%p1, %r2, 2, 6175", lanes(&|l| l / 8 * 8 + 2)),
        ("down.b32 %r3|%p1, %r2, 1, 6175", lanes(&|l| if l % 8 == 7 { 99 } else { l + 1 })),
    ] {
        assert_eq!(in_every_order(&kernel(&body(how)), grid(1, 32), &[0; 32]), want, "{how}");
    }
    let vote = "setp.lt.u32 %p1, %r1, 5;\nvote.sync.ballot.b32 %r2, %p1, -1;\nvote.sync.any.pred %p2, %p1, -1;\n\
         vote.sync.all.pred %p3, !%p1, -1;\nelect.sync _|%p4, -1;\nselp.b32 %r3, 2, 0, %p2;\n\
         selp.b32 %r4, 1, 0, %p3;\nor.b32 %r3, %r3, %r4;\n@%p4 st.global.v2.b32 [%rd1], {%r2, %r3};";
    assert_eq!(in_every_order(&kernel(vote), grid(1, 32), &[0; 2]), [0x1f, 2]);
}

#[test]
fn stray_addresses_are_named() {
    for (body, space) in [
        ("ld.global.b32 %r2, [%rd1+4];", "global"),
        ("ld.global.b32 %r2, [%rd1+-4];", "global"),
        ("mov.u32 %r2, 0;\nst.shared.b32 [%r2+4096], %r2;", "shared"),
        (".local .align 4 .b8 own[8];\nmov.b64 %rd2, own;\nst.local.b32 [%rd2+8], %r1;", "local"),
    ] {
        let (found, _) = problem(&kernel(body), grid(1, 32), &[0]);
        assert!(
            matches!(found, Problem::Outside { space: s, .. } if s == space),
            "{body}: {found}"
        );
    }
    let (found, _) = problem(&kernel("ld.global.b32 %r2, [%rd1+2];"), grid(1, 32), &[0, 0]);
    assert!(matches!(found, Problem::Unaligned { bytes: 4, .. }), "{found}");
}

/// Each thread has local memory of its own, also by generic addresses.
#[test]
fn local_memory_is_each_threads_own() {
    let body = ".local .align 8 .b8 own[16];\nmov.b64 %rd2, own;\ncvta.local.u64 %rd3, %rd2;\n\
         st.local.b32 [%rd2+4], %r1;\nld.b32 %r2, [%rd3+4];\nmul.wide.u32 %rd4, %r1, 4;\n\
         add.s64 %rd4, %rd1, %rd4;\nst.global.b32 [%rd4], %r2;";
    let want: Vec<u32> = (0..64).collect();
    assert_eq!(in_every_order(&kernel(body), grid(1, 64), &[7; 64]), want);
}

#[test]
fn counts_are_of_sectors_and_banks() {
    let access = |stride: u32| {
        format!(
            "mul.lo.s32 %r2, %r1, {stride};\ncvt.u64.u32 %rd2, %r2;\nadd.s64 %rd2, %rd1, %rd2;\nld.global.b32 %r3, [%rd2];\nst.shared.b32 [%r2], %r3;"
        )
    };
    for (stride, sectors, conflicts) in [(4, 4, 0), (8, 8, 1), (128, 32, 31)] {
        let (_, counts) =
            run(&kernel(&access(stride)), grid(1, 32), &[0; 1024], Order::Forward).unwrap();
        assert_eq!(
            (counts.global_sectors, counts.bank_conflicts),
            (sectors, conflicts),
            "{stride}"
        );
        assert_eq!((counts.global_bytes, counts.global_accesses), (128, 1));
    }
}

#[test]
fn what_is_unknown_is_refused_with_its_line() {
    for (body, word) in [
        ("wgmma.fence.sync.aligned;", "unknown"),
        ("add.s32 %r1, %r2;", "operands"),
        ("add.s32 %r1, %rd2, 1;", "32 bits"),
        ("bra $NOWHERE;", "label"),
        ("ld.param.b64 %rd1, [other];", "parameter"),
        ("shfl.sync.bfly.b32 %r1, %r2, 1, 31, 15;", "whole warps"),
        ("red.global.add.f32 [%rd1], %r1;", "unknown"),
        (".maxnreg 5;", "directive"),
    ] {
        let Err(SimError::Text { line, why, text: at }) = Module::parse(&text(body)) else {
            panic!("{body} was read");
        };
        assert!(why.contains(word), "{body}: {why}");
        assert_eq!(text(body).lines().nth(line as usize - 1).unwrap().trim_end_matches(';'), at);
    }
    let module = kernel("");
    assert_eq!(module.kernel("other").unwrap_err(), SimError::NoKernel("other".into()));
    let k = module.kernel("k").unwrap();
    let mut memory = Memory::default();
    for arguments in [vec![], vec![Argument::Word(1)]] {
        let result = launch(k, &grid(1, 32), &arguments, &mut memory, Order::Forward);
        assert!(matches!(result, Err(SimError::Launch(_))));
    }
    let result = launch(k, &grid(1, 1025), &[Argument::Long(0)], &mut memory, Order::Forward);
    assert!(matches!(result, Err(SimError::Launch(_))));
}
