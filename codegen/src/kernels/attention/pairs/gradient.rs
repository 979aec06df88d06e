//! Gradient of attention by pairs: a task is one head of keys and values, or has some of its keys. A panel of keys stays in
//! cache, with its gradients, while all queries that see it pass, block by block; each block meets the panel's keys chunk
//! by chunk. Heads of queries that share the keys come one after the other, and gradients of keys and values wait in
//! scratch from one to the next.
//!
//! Queries and gradients of outputs are packed once, both along head_dim and along the sequence. Gradients of queries
//! grow in scratch, in f32, over the panels; the order of every sum is that of keys or queries.

use super::weights::{Room, weigh};
use super::{Left, Lines, Pairs, QUERIES, SIDE};
use crate::CodegenError;
use crate::emit::{Emit, TILE, Ty, Val};
use crate::kernels::attention::block::{Rows, load_wide, store_wide};
use crate::kernels::attention::head::{Head, Queries};
use crate::kernels::attention_grad::deltas;
use crate::kernels::dropout::Weights;
use crate::kernels::{Body, Shape};
use crate::x86::Bf16;

/// Keys of a chunk: matmuls of its weights run over whole blocks in both directions.
const KEYS: usize = QUERIES;
/// A vector of f32.
const V: Ty = Ty::Vec(TILE);

/// Keys of a panel: what is kept of each fits half the second-level cache.
fn panel(at: Pairs, l2: usize) -> usize {
    // Keys, values and transposed keys as bfloat16, two gradients as f32.
    let each = 14 * at.wide();
    let most = (l2 / 2 / each / KEYS).max(1) * KEYS;
    most.min(at.s.runs.keys.next_multiple_of(KEYS))
}

/// Emits the kernel of `inputs` q, k, v, out, lse and dout, and `results` dq, dk and dv.
pub fn emit(
    b: &mut Body<'_>,
    at: Pairs,
    inputs: [Val; 6],
    results: [Val; 3],
    drop: Option<Weights>,
) -> Result<Shape, CodegenError> {
    let s = at.s;
    let panel = panel(at, b.cpu.l2);
    let (places, scratch_floats) = Places::of(b, at, panel);
    let tiles = at.unit == Bf16::Tiles;
    if tiles {
        b.k.tile_config(places.config);
    }
    b.tasks(|b, task| {
        let k = &mut b.k;
        let head = Head::of(k, s, task, inputs, results);
        let task = Task { at, places, panel, drop };
        let keys = task.copy_keys(k, &head);
        head.each_queries(k, s, |k, shared| {
            task.statistics(k, &shared);
            clear(k, places.dq_sums, at.rows().next_multiple_of(QUERIES) * at.wide());
            task.pack_queries(k, &head, &shared);
            head.each_run(k, s, |k, first, end| {
                let end = rows_to(k, end);
                k.loop_(first, end, panel, |k, n0| {
                    let step = k.int(panel as i64);
                    let n1 = k.add(n0, step);
                    let n1 = k.min(n1, end);
                    task.panel(k, &head, &shared, keys, (n0, n1));
                });
            });
            task.store_queries(k, &shared);
        });
        Ok(())
    })?;
    if tiles {
        b.k.tile_release();
    }
    Ok(Shape { tasks: s.gradient_tasks(), scratch_floats, tiles })
}

/// Places in scratch that a task works in.
#[derive(Clone, Copy)]
struct Places {
    config: Val,
    /// Copies of rows of keys, values and a block of queries, where those are not read where they lie.
    keys: Val,
    values: Val,
    queries: Val,
    /// Queries and gradients of outputs, packed along head_dim and along the sequence.
    q_width: Val,
    q_tokens: Val,
    d_width: Val,
    d_tokens: Val,
    /// Gradients of queries.
    dq_sums: Val,
    /// What is known per query: out·dout, and minus the log-sum-exp to the base 2.
    delta: Val,
    minus_lse: Val,
    /// A panel's keys along the sequence, and gradients of keys and values.
    packed_keys: Val,
    dk_sums: Val,
    dv_sums: Val,
    /// What a chunk's scores go through.
    room: Room,
}

impl Places {
    /// The places for panels of `panel` keys, and the floats that they take.
    fn of(b: &mut Body<'_>, at: Pairs, panel: usize) -> (Places, usize) {
        let (rows, wide) = (at.rows(), at.wide());
        // Blocks are whole in scratch; those of queries behind the last are zeros.
        let tokens = rows.next_multiple_of(QUERIES);
        // Keys and values whose gradients are kept: a panel's, or all that the heads of queries come back to.
        let kept = if at.s.members == 1 { panel } else { tokens + panel };
        let parts = [
            TILE,
            at.copied(rows),
            at.copied(rows),
            at.copied(QUERIES),
            at.words(tokens),
            at.words(tokens),
            at.words(tokens),
            at.words(tokens),
            tokens * wide,
            tokens,
            tokens,
            at.words(panel),
            kept * wide,
            kept * wide,
            KEYS * SIDE,
            KEYS * SIDE,
            KEYS * QUERIES / 2,
            KEYS * QUERIES / 2,
            KEYS * QUERIES / 2,
        ];
        let [config, keys, values, queries, rest @ ..] = b.places(parts);
        let [q_width, q_tokens, d_width, d_tokens, dq_sums, delta, minus_lse, rest @ ..] = rest;
        let [packed_keys, dk_sums, dv_sums, p, dp, weights, ds, ds_lines] = rest;
        let places = Places {
            config,
            keys,
            values,
            queries,
            q_width,
            q_tokens,
            d_width,
            d_tokens,
            dq_sums,
            delta,
            minus_lse,
            packed_keys,
            dk_sums,
            dv_sums,
            room: Room { p, dp, weights, ds, ds_lines },
        };
        (places, parts.iter().sum())
    }

    /// Where block `first` of a packed operand starts.
    fn block(k: &mut Emit, at: Pairs, p: Val, first: Val) -> Val {
        let place = k.scale(first, at.wide() / 2);
        k.element(p, place)
    }
}

/// The row behind a run whose last is before `end`: runs are whole blocks, but for the last, which has zeros behind it.
fn rows_to(k: &mut Emit, end: Val) -> Val {
    let (side, less) = (k.int(SIDE as i64), k.int(SIDE as i64 - 1));
    let end = k.add(end, less);
    let groups = k.div(end, side);
    k.scale(groups, SIDE)
}

/// What the tasks of a kernel have in common.
#[derive(Clone, Copy)]
struct Task {
    at: Pairs,
    places: Places,
    /// Keys of a panel.
    panel: usize,
    drop: Option<Weights>,
}

/// A panel's keys and values from its chunk `n` on: rows, keys along the sequence, and the gradients.
#[derive(Clone, Copy)]
struct Chunk {
    n: Val,
    keys: Left,
    values: Left,
    across_keys: Left,
    dk: Val,
    dv: Val,
}

impl Chunk {
    /// The keys from `ahead` on, a multiple of [`SIDE`]; gradients stay those of all.
    fn from(self, k: &mut Emit, ahead: Val) -> Chunk {
        Chunk {
            n: k.add(self.n, ahead),
            keys: self.keys.from(k, ahead),
            values: self.values.from(k, ahead),
            across_keys: self.across_keys.steps_from(k, ahead),
            ..self
        }
    }
}

/// A block of queries `q0 .. q1`, packed, and gradients of its outputs.
#[derive(Clone, Copy)]
struct Block {
    q0: Val,
    q1: Val,
    q_width: Val,
    q_tokens: Val,
    d_width: Val,
    d_tokens: Val,
}

impl Task {
    /// Rows of the head's keys and values that can be read whole.
    fn copy_keys(self, k: &mut Emit, head: &Head) -> [Left; 2] {
        let (at, places, [key, value]) = (self.at, self.places, head.inputs);
        head.each_run(k, at.s, |k, first, end| {
            let end = rows_to(k, end);
            at.copy(k, key, (first, end), places.keys, first);
            at.copy(k, value, (first, end), places.values, first);
        });
        [at.plain(k, key, places.keys), at.plain(k, value, places.values)]
    }

    /// What is known of each query: out·dout, and minus the log-sum-exp to the base 2.
    fn statistics(self, k: &mut Emit, shared: &Queries) {
        let (s, Places { delta, minus_lse, .. }) = (self.at.s, self.places);
        let [out, dout] = shared.outputs;
        clear(k, delta, self.at.rows().next_multiple_of(QUERIES));
        let (zero, seq, all) = (k.int(0), k.int(s.seq as i64), k.int(self.at.rows() as i64));
        deltas(k, s, seq, out, dout, delta);
        let minus_log2 = k.float(-std::f64::consts::LOG2_E, V);
        k.loop_(zero, all, TILE, |k, i| {
            let left = k.sub(seq, i);
            let mask = k.first_lanes(TILE, 0, left);
            let from = k.element(shared.lse, i);
            let x = k.load_masked(from, mask);
            let x = k.mul(x, minus_log2);
            let to = k.element(minus_lse, i);
            k.store(x, to);
        });
    }

    /// Packs queries and gradients of outputs, block by block.
    fn pack_queries(self, k: &mut Emit, head: &Head, shared: &Queries) {
        let (at, places) = (self.at, self.places);
        let (zero, all) = (k.int(0), k.int(at.rows() as i64));
        let of_q = (shared.rows, places.q_width, places.q_tokens);
        let of_d = (shared.outputs[1], places.d_width, places.d_tokens);
        for (rows, width, tokens) in [of_q, of_d] {
            k.loop_(head.first, all, QUERIES, |k, q0| {
                let step = k.int(QUERIES as i64);
                let q1 = k.add(q0, step);
                let q1 = k.min(q1, all);
                let count = k.sub(q1, q0);
                at.copy(k, rows, (q0, q1), places.queries, zero);
                let from = at.plain(k, rows, places.queries);
                let from = if at.whole() { from.from(k, q0) } else { from };
                let lines = Lines { base: Places::block(k, at, width, q0), row: QUERIES };
                at.along_width(k, from, count, lines);
                let lines = Places::block(k, at, tokens, q0);
                at.along_tokens(k, from, count, lines);
            });
        }
    }

    /// A panel of keys `n0 .. n1`: all queries that see it pass, block by block.
    fn panel(
        self,
        k: &mut Emit,
        head: &Head,
        shared: &Queries,
        [keys, values]: [Left; 2],
        (n0, n1): (Val, Val),
    ) {
        let (at, s, places) = (self.at, self.at.s, self.places);
        let all = k.int(at.rows() as i64);
        let count = k.sub(n1, n0);
        let of_panel = keys.from(k, n0);
        let across_keys = at.across_tokens(k, of_panel, count, places.packed_keys);
        // Those of the panel's keys.
        let [dk, dv] = [places.dk_sums, places.dv_sums].map(|p| match s.members {
            1 => p,
            _ => {
                let at = k.scale(n0, at.wide());
                k.element(p, at)
            }
        });
        shared.if_first(k, s, |k| {
            clear(k, dk, self.panel * at.wide());
            clear(k, dv, self.panel * at.wide());
        });
        // From the block of the panel's first key on: panels are whole blocks.
        let last = s.seeing(k, n1, all);
        k.loop_(n0, last, QUERIES, |k, q0| {
            let step = k.int(QUERIES as i64);
            let q1 = k.add(q0, step);
            let q1 = k.min(q1, all);
            let seen = k.min(n1, q1);
            let Places { q_width, q_tokens, d_width, d_tokens, .. } = places;
            let [q_width, q_tokens, d_width, d_tokens] =
                [q_width, q_tokens, d_width, d_tokens].map(|p| Places::block(k, at, p, q0));
            let block = Block { q0, q1, q_width, q_tokens, d_width, d_tokens };
            let first = match s.ahead(k, q0, n0, KEYS) {
                None => n0,
                Some(ahead) => k.add(n0, ahead),
            };
            k.loop_(first, seen, KEYS, |k, n| {
                let (keys, values) = (keys.from(k, n), values.from(k, n));
                let local = k.sub(n, n0);
                let across_keys = across_keys.steps_from(k, local);
                let chunk = Chunk { n, keys, values, across_keys, dk, dv };
                let to = match s.window {
                    None => q1,
                    Some(_) => {
                        let size = k.int(KEYS as i64);
                        let end = k.add(n, size);
                        s.seeing(k, end, q1)
                    }
                };
                k.loop_(q0, to, SIDE, |k, query| {
                    self.add_to_queries(k, shared, chunk, block, query)
                });
                self.add_to_keys(k, chunk, block, local);
            });
        });
        shared.if_last(k, s, |k| self.store_keys(k, head, (n0, n1), [dk, dv]));
    }

    /// Makes weights and gradients of scores of a chunk by the group that begins with query `query`, and adds to the
    /// gradients of its queries.
    fn add_to_queries(
        self,
        k: &mut Emit,
        shared: &Queries,
        chunk: Chunk,
        block: Block,
        query: Val,
    ) {
        let (at, s, mut room) = (self.at, self.at.s, self.places.room);
        let (zero, side, mut most) = (k.int(0), k.int(SIDE as i64), k.int(KEYS as i64));
        let mut chunk = chunk;
        if let Some(ahead) = s.ahead(k, query, chunk.n, SIDE) {
            chunk = chunk.from(k, ahead);
            room = room.from(k, ahead);
            most = k.sub(most, ahead);
        }
        let diagonal = k.sub(query, chunk.n);
        let end = k.add(diagonal, side);
        let end = k.min(end, most);
        let offset = k.sub(query, block.q0);
        let pairs = [(chunk.keys, block.q_width, room.p), (chunk.values, block.d_width, room.dp)];
        for (rows, lines, to) in pairs {
            let lines = Lines { base: lines, row: QUERIES }.columns(k, offset);
            let to = Lines { base: to, row: SIDE };
            at.matmul(k, (end, SIDE), |k, _| at.across(k), rows, lines, to, true);
        }
        let known = [self.places.minus_lse, self.places.delta].map(|p| {
            let p = k.element(p, query);
            [0, 1].map(|j| {
                let p = k.element_at(p, j * TILE);
                k.load(V, p)
            })
        });
        let drop = self.drop.map(|w| {
            let first = k.add(shared.token, query);
            let seq = k.int(s.seq as i64);
            let left = k.sub(seq, query);
            (w, w.rows(k, first, left, shared.number, SIDE, TILE), chunk.n)
        });
        weigh(k, s, (diagonal, end), offset, room, known, drop);
        let (rows, steps) = (k.int(at.wide() as i64), k.div(end, side));
        let lines = Lines { base: room.ds_lines, row: QUERIES }.columns(k, offset);
        let to = k.scale(query, at.wide());
        let to = Lines { base: k.element(self.places.dq_sums, to), row: SIDE };
        let steps = |_: &mut Emit, _: Val| (zero, steps);
        at.matmul(k, (rows, SIDE), steps, chunk.across_keys, lines, to, false);
    }

    /// Adds what a block of queries makes of a chunk, `local` keys after the panel's first, to the gradients of its keys
    /// and values.
    fn add_to_keys(self, k: &mut Emit, chunk: Chunk, block: Block, local: Val) {
        let (at, room) = (self.at, self.places.room);
        let (zero, side, most) = (k.int(0), k.int(SIDE as i64), k.int(KEYS as i64));
        let count = k.sub(block.q1, chunk.n);
        let count = k.min(count, most);
        let groups = k.sub(block.q1, block.q0);
        let groups = k.div(groups, side);
        // From the group of queries on that sees a tile's first key.
        let ahead = k.sub(chunk.n, block.q0);
        let steps = |k: &mut Emit, r: Val| {
            let first = k.add(ahead, r);
            let first = k.max(first, zero);
            let from = k.div(first, side);
            let Some(window) = at.s.window else { return (from, groups) };
            // To the last group that sees any of its keys.
            let behind = k.int((at.height() + window + SIDE - 1) as i64);
            let end = k.add(ahead, r);
            let end = k.add(end, behind);
            let end = k.max(end, zero);
            let end = k.div(end, side);
            (from, k.min(end, groups))
        };
        let wide = at.wide();
        let local = k.scale(local, wide);
        let of_values = (room.weights, block.d_tokens, chunk.dv);
        let of_keys = (room.ds, block.q_tokens, chunk.dk);
        for (left, lines, to) in [of_values, of_keys] {
            let left = Left { base: left, row: QUERIES / 2, step: TILE };
            let lines = Lines { base: lines, row: wide };
            let to = Lines { base: k.element(to, local), row: wide };
            at.matmul(k, (count, wide), steps, left, lines, to, false);
        }
    }

    /// Stores the gradients `dk` and `dv` of the panel `n0 .. n1`.
    fn store_keys(self, k: &mut Emit, head: &Head, (n0, n1): (Val, Val), [dk, dv]: [Val; 2]) {
        let s = self.at.s;
        let (zero, seq) = (k.int(0), k.int(s.seq as i64));
        let last = k.min(n1, seq);
        let count = k.sub(last, n0);
        let (unit, scale) = (k.float(1.0, V), k.float(s.scale, V));
        let [to_dk, to_dv] = head.results;
        for (from, to, factor) in [(dk, to_dk, scale), (dv, to_dv, unit)] {
            let to = to.from(k, n0);
            k.loop_(zero, count, 1, |k, r| {
                let from = Rows { base: from, stride: self.at.wide() }.at(k, r);
                let to = to.at(k, r);
                for j in 0..s.vectors() {
                    let v = load_wide(k, s, from, j);
                    let v = k.mul(v, factor);
                    store_wide(k, s, v, to, j);
                }
            });
        }
    }

    /// Stores the gradients of all queries.
    fn store_queries(self, k: &mut Emit, shared: &Queries) {
        let at = self.at;
        let (zero, all) = (k.int(0), k.int(at.rows() as i64));
        let scale = k.float(at.s.scale, V);
        k.loop_(zero, all, SIDE, |k, query| {
            let from = k.scale(query, at.wide());
            let sums = k.element(self.places.dq_sums, from);
            at.store_columns(k, sums, [scale; 2], shared.result, query);
        });
    }
}

/// Zeros to `count` floats, whole vectors.
fn clear(k: &mut Emit, p: Val, count: usize) {
    let none = k.float(0.0, V);
    k.count(count / TILE, |k, i| {
        let i = k.scale(i, TILE);
        let p = k.element(p, i);
        k.store(none, p);
    });
}
