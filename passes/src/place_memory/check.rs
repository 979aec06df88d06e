//! An independent check of a placed program: it is executed with loops cut to at most three
//! iterations on *versions* instead of numbers, and every read must see the version that the
//! producer wrote. Shares nothing with the walk that chose the places.
//!
//! A collective that is waited for later may read and write at any time until then. So it writes its version
//! at its start, and when it is waited for both its bytes and those that it sends must still have the
//! versions they had at the start. The collectives that the iterations of a loop leave on their way are all
//! looked at when the loop's result is waited for.

use std::collections::{BTreeMap, HashMap};

use neoxc_ir::op::Class;
use neoxc_ir::ops::repeat::totals;
use neoxc_ir::{Attrs, Function, Module, Op, OpKind, Role, ValueId, keys};

use super::{GRADS, Place, next_of};
use crate::keep_weights;
use crate::pass::PassError;

type Version = u64;

/// Bytes of one segment as ranges that hold one version: start → (end, version, offset in it).
#[derive(Default)]
struct Memory {
    segments: HashMap<String, BTreeMap<u64, (u64, Version)>>,
    next: Version,
}

impl Memory {
    fn write(&mut self, segment: &str, lo: u64, hi: u64) -> Version {
        self.next += 1;
        let version = self.next;
        let map = self.segments.entry(segment.to_string()).or_default();
        let hit: Vec<u64> =
            map.range(..hi).filter(|(_, (end, _))| *end > lo).map(|(start, _)| *start).collect();
        for start in hit {
            if let Some((end, v)) = map.remove(&start) {
                if start < lo {
                    map.insert(start, (lo, v));
                }
                if end > hi {
                    map.insert(hi, (end, v));
                }
            }
        }
        map.insert(lo, (hi, version));
        version
    }

    /// Versions found in a range, in order.
    fn read(&self, segment: &str, lo: u64, hi: u64) -> Vec<(u64, u64, Version)> {
        let Some(map) = self.segments.get(segment) else { return vec![] };
        map.range(..hi)
            .filter(|(_, (end, _))| *end > lo)
            .map(|(start, (end, v))| ((*start).max(lo) - lo, (*end).min(hi) - lo, *v))
            .collect()
    }
}

/// What a value should look like: the versions of its bytes.
type Image = Vec<(u64, u64, Version)>;

/// A range under way, and what it has to look like until it is waited for.
#[derive(Clone)]
struct Under {
    segment: String,
    range: (u64, u64),
    image: Image,
}

/// What one run of a body made.
struct Made {
    /// What each result should look like.
    images: Vec<Image>,
    /// What is on its way in each result.
    under_way: Vec<Vec<Under>>,
}

/// Of a loop: the number of each iteration and what it made; what is under way in each late result.
type Iterations = (Vec<(usize, Vec<Image>)>, Vec<Vec<Under>>);

struct Check<'m> {
    module: &'m Module,
    memory: Memory,
    index: HashMap<String, u64>,
    /// Gradients, which the runtime looks at after a step that went wrong.
    gradients: Vec<Stays>,
}

/// What stays until the end: where it lies, and the image of it.
type Stays = (Place, (u64, u64), Image);

/// Checks the program of `entry`.
pub fn check(m: &Module, entry: &str) -> Result<(), PassError> {
    let mut c =
        Check { module: m, memory: Memory::default(), index: HashMap::new(), gradients: vec![] };
    let mut kept: Vec<Stays> = vec![];
    let f = function(m, entry)?;
    let mut images = vec![];
    for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
        let place = place_of(m, attrs, 0, entry)?;
        let (lo, hi) = c.range(&place, f.ty(*p).bytes());
        c.memory.write(&place.segment, lo, hi);
        let image = c.memory.read(&place.segment, lo, hi);
        let stays =
            Role::Cache.is(attrs) || Role::Rounded.is(attrs) && entry != keep_weights::UPDATE;
        if stays {
            kept.push((place, (lo, hi), image.clone()));
        }
        images.push(image);
    }
    c.run(f, &images, &[])?;
    for (place, (lo, hi), image) in kept.iter().chain(&c.gradients) {
        if c.memory.read(&place.segment, *lo, *hi) != *image {
            let lost = format!("@{entry} writes to {place}, which is to stay");
            return Err(PassError::internal(lost));
        }
    }
    Ok(())
}

fn function<'m>(m: &'m Module, name: &str) -> Result<&'m Function, PassError> {
    m.function(name).ok_or_else(|| PassError::internal(format!("there is no @{name}")))
}

/// Where a value lies, by the segment that has the bytes.
fn place_of(m: &Module, attrs: &Attrs, i: usize, who: &str) -> Result<Place, PassError> {
    let place = attrs.strs(keys::PLACE).and_then(|p| Place::parse(p.get(i)?));
    let mut place =
        place.ok_or_else(|| PassError::internal(format!("@{who}: a value has no place")))?;
    if let (GRADS, Some(at)) = (&*place.segment, m.attrs.int(keys::GRADS)) {
        (place.segment, place.offset) = ("arena".into(), place.offset + at.max(0) as u64);
    }
    Ok(place)
}

/// One run of a function: what is known of its values so far.
struct Frame<'f> {
    f: &'f Function,
    /// The versions of bytes that each value was made as.
    images: HashMap<ValueId, Image>,
    places: HashMap<ValueId, Place>,
    /// What is under way, by the value that is waited for.
    sent: HashMap<ValueId, Vec<Under>>,
    /// Values that are waited for, here or by the caller.
    waited: Vec<ValueId>,
}

impl Check<'_> {
    fn range(&self, p: &Place, bytes: usize) -> (u64, u64) {
        let moved: u64 =
            p.strides.iter().map(|(dim, s)| self.index.get(dim).copied().unwrap_or(0) * s).sum();
        (p.offset + moved, p.offset + moved + bytes as u64)
    }

    /// Runs `f`, which may leave the results numbered `late` on their way.
    fn run(&mut self, f: &Function, params: &[Image], late: &[usize]) -> Result<Made, PassError> {
        let waits = f.ops.iter().filter(|op| op.kind == OpKind::Wait).map(|op| op.operands[0]);
        let waited = waits.chain(late.iter().map(|n| f.results[*n])).collect();
        let mut frame = Frame {
            f,
            images: HashMap::new(),
            places: HashMap::new(),
            sent: HashMap::new(),
            waited,
        };
        for ((p, attrs), i) in f.params.iter().zip(&f.param_attrs).zip(params) {
            frame.images.insert(*p, i.clone());
            frame.places.insert(*p, place_of(self.module, attrs, 0, &f.name)?);
        }
        for op in &f.ops {
            self.reads(&mut frame, op)?;
            for (i, r) in op.results.iter().enumerate() {
                frame.places.insert(*r, place_of(self.module, &op.attrs, i, &f.name)?);
            }
            if op.kind.def().class() == Class::View {
                let same = frame.images[&op.operands[0]].clone();
                frame.images.insert(op.results[0], same);
            } else if op.kind == OpKind::Repeat {
                self.iterates(&mut frame, op)?;
            } else {
                self.writes(&mut frame, op)?;
            }
        }
        self.ends(frame, late)
    }

    /// The operands are as they were made; what is waited for has kept its bytes until now.
    fn reads(&self, frame: &mut Frame<'_>, op: &Op) -> Result<(), PassError> {
        let f = frame.f;
        for o in &op.operands {
            if frame.sent.contains_key(o) && op.kind != OpKind::Wait {
                return Err(self.broken(f, op, "uses what is still on its way"));
            }
            self.expect(f, *o, &frame.places[o], &frame.images[o], op)?;
        }
        if op.kind == OpKind::Wait {
            let under = frame.sent.remove(&op.operands[0]);
            let under = under.ok_or_else(|| self.broken(f, op, "waits for nothing"))?;
            let changed = |u: &Under| self.memory.read(&u.segment, u.range.0, u.range.1) != u.image;
            if under.iter().any(changed) {
                return Err(self.broken(f, op, "waits for bytes that another value has"));
            }
        }
        Ok(())
    }

    /// A loop: its iterations one after the other, then what it leaves.
    fn iterates(&mut self, frame: &mut Frame<'_>, op: &Op) -> Result<(), PassError> {
        let f = frame.f;
        let operands: Vec<Image> = op.operands.iter().map(|o| frame.images[o].clone()).collect();
        let number = |v: &ValueId| op.results.iter().position(|r| r == v);
        let late: Vec<usize> = frame.waited.iter().filter_map(number).collect();
        let (steps, under_way) = self.repeat(f, op, operands, &late)?;
        self.results_of_loop(f, op, &frame.places, &steps)?;
        frame.sent.extend(late.iter().map(|n| op.results[*n]).zip(under_way));
        let micro = op.attrs.str("dim") == Some("micro");
        let totals = if micro { totals(op) } else { vec![] };
        if micro {
            // The last micro-batch may have a loop of its own, which goes on with what this one made.
            self.gradients.clear();
        }
        for (n, r) in op.results.iter().enumerate() {
            let place = &frame.places[r];
            let (lo, hi) = self.range(place, f.ty(*r).bytes());
            let now = self.memory.read(&place.segment, lo, hi);
            if totals.contains(&n) {
                self.gradients.push((place.clone(), (lo, hi), now.clone()));
            }
            frame.images.insert(*r, now);
        }
        Ok(())
    }

    /// A kernel or a collective: its results get new versions of their bytes, and touch no operand but in place.
    fn writes(&mut self, frame: &mut Frame<'_>, op: &Op) -> Result<(), PassError> {
        let f = frame.f;
        let collective = op.kind.def().class() == Class::Collective;
        let pairs = if collective {
            if op.kind == OpKind::AllReduce { vec![0, 0] } else { vec![] }
        } else {
            let callee = op.attrs.symbol("callee").unwrap_or_default();
            let callee = function(self.module, callee)?;
            callee.attrs.ints(keys::INPLACE).unwrap_or_default().to_vec()
        };
        for i in 0..op.results.len() {
            self.apart(frame, op, i, &pairs)?;
            let (place, (lo, hi)) = self.lies(frame, op.results[i]);
            self.memory.write(&place.segment, lo, hi);
        }
        for r in &op.results {
            let (place, (lo, hi)) = self.lies(frame, *r);
            let now = self.memory.read(&place.segment, lo, hi);
            frame.images.insert(*r, now);
        }
        if collective && frame.waited.contains(&op.results[0]) {
            let (x, y) = (op.operands[0], op.results[0]);
            // In place there is nothing else that is sent.
            let in_place = frame.places[&x] == frame.places[&y];
            let ends = if in_place { vec![y] } else { vec![x, y] };
            let under = |v: &ValueId| Under {
                segment: frame.places[v].segment.clone(),
                range: self.range(&frame.places[v], f.ty(*v).bytes()),
                image: frame.images[v].clone(),
            };
            let under = ends.iter().map(under).collect();
            frame.sent.insert(y, under);
        }
        Ok(())
    }

    /// Result `i` of `op` shares no byte with an operand, unless `pairs` has the two at one place, and none with
    /// another result.
    fn apart(&self, frame: &Frame<'_>, op: &Op, i: usize, pairs: &[i64]) -> Result<(), PassError> {
        let (place, (lo, hi)) = self.lies(frame, op.results[i]);
        for (j, o) in op.operands.iter().enumerate() {
            let (other, (a, b)) = self.lies(frame, *o);
            let overlap = other.segment == place.segment && a < hi && lo < b;
            let allowed = (a, b) == (lo, hi) && pairs.chunks(2).any(|p| p == [i as i64, j as i64]);
            if overlap && !allowed {
                return Err(self.broken(frame.f, op, "overwrites an operand it still reads"));
            }
        }
        for r in &op.results[..i] {
            let (other, (a, b)) = self.lies(frame, *r);
            if other.segment == place.segment && a < hi && lo < b {
                return Err(self.broken(frame.f, op, "writes two results to one place"));
            }
        }
        Ok(())
    }

    /// The place of a value, and its bytes there.
    fn lies<'p>(&self, frame: &'p Frame<'_>, v: ValueId) -> (&'p Place, (u64, u64)) {
        let place = &frame.places[&v];
        (place, self.range(place, frame.f.ty(v).bytes()))
    }

    /// At the end everything was waited for, and results hold what was made.
    fn ends(&self, frame: Frame<'_>, late: &[usize]) -> Result<Made, PassError> {
        let Frame { f, images, places, mut sent, .. } = frame;
        let mut under_way = vec![vec![]; f.results.len()];
        for n in late {
            under_way[*n] = sent.remove(&f.results[*n]).unwrap_or_default();
        }
        if let Some(op) = f.ops.iter().find(|op| op.results.iter().any(|r| sent.contains_key(r))) {
            return Err(self.broken(f, op, "is never waited for"));
        }
        for r in &f.results {
            let (lo, hi) = self.range(&places[r], f.ty(*r).bytes());
            if self.memory.read(&places[r].segment, lo, hi) != images[r] {
                let name = &f.name;
                let lost = format!("@{name}: a result is overwritten before the end");
                return Err(PassError::internal(lost));
            }
        }
        Ok(Made { images: f.results.iter().map(|r| images[r].clone()).collect(), under_way })
    }

    /// After a loop, its carried results hold what the last iteration made, and each slice of a stacked
    /// result what its own iteration made: no later iteration has written over it.
    fn results_of_loop(
        &self,
        f: &Function,
        op: &Op,
        places: &HashMap<ValueId, Place>,
        steps: &[(usize, Vec<Image>)],
    ) -> Result<(), PassError> {
        let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
        let (carried, count) = (at("carried"), at("count").max(1));
        for (n, r) in op.results.iter().enumerate() {
            let (lo, hi) = self.range(&places[r], f.ty(*r).bytes());
            let bytes = if n < carried { hi - lo } else { (hi - lo) / count as u64 };
            let skip = if n < carried { steps.len().saturating_sub(1) } else { 0 };
            for (i, images) in steps.iter().skip(skip) {
                let start = if n < carried { lo } else { lo + *i as u64 * bytes };
                let now = self.memory.read(&places[r].segment, start, start + bytes);
                if now != images[n] {
                    return Err(self.broken(f, op, "lost a result of an earlier iteration"));
                }
            }
        }
        Ok(())
    }

    fn broken(&self, f: &Function, op: &Op, what: &str) -> PassError {
        PassError::internal_at(
            format!(
                "@{}: {:?} {what}",
                f.name,
                op.attrs.symbol("callee").unwrap_or(op.kind.name())
            ),
            &op.loc,
        )
    }

    fn expect(
        &self,
        f: &Function,
        v: ValueId,
        place: &Place,
        image: &Image,
        op: &Op,
    ) -> Result<(), PassError> {
        let (lo, hi) = self.range(place, f.ty(v).bytes());
        if &self.memory.read(&place.segment, lo, hi) == image {
            return Ok(());
        }
        Err(self.broken(f, op, "reads bytes of another value"))
    }

    fn repeat(
        &mut self,
        f: &Function,
        op: &Op,
        operands: Vec<Image>,
        late: &[usize],
    ) -> Result<Iterations, PassError> {
        let mut under_way = vec![vec![]; late.len()];
        let first = op.attrs.int("first").map(|n| n as u64);
        let next = op.attrs.ints("next").unwrap_or_default();
        let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
        let (carried, sliced, count) = (at("carried"), at("sliced"), at("count"));
        let dim = op.attrs.str("dim").unwrap_or_default().to_string();
        let callee = function(self.module, op.attrs.symbol("callee").unwrap_or_default())?.clone();
        let mut images = operands.clone();
        let mut steps = vec![];
        let all: Vec<usize> = if count <= 3 { (0..count).collect() } else { vec![0, 1, count - 1] };
        let order: Vec<usize> =
            if op.attrs.flag("reverse") { all.into_iter().rev().collect() } else { all };
        for i in order {
            self.index.insert(dim.clone(), i as u64);
            let step = if op.attrs.flag("reverse") { count - 1 } else { 1 };
            let then = ((i + step) % count) as u64;
            self.index.insert(next_of(&dim), then);
            for n in carried..carried + sliced {
                let ty = f.ty(op.operands[n]);
                let slices = ty.size(&dim).filter(|_| first.is_some()).unwrap_or(count);
                let bytes = (ty.bytes() / slices) as u64;
                let i = if next.contains(&(n as i64)) { then } else { i as u64 };
                let lo = (i + first.unwrap_or(0)) * bytes;
                images[n] = operands[n]
                    .iter()
                    .filter(|(a, b, _)| *b > lo && *a < lo + bytes)
                    .map(|(a, b, v)| ((*a).max(lo) - lo, (*b).min(lo + bytes) - lo, *v))
                    .collect();
            }
            let Made { images: out, under_way: left } = self.run(&callee, &images, late)?;
            images[..carried].clone_from_slice(&out[..carried]);
            steps.push((i, out));
            for (all, n) in under_way.iter_mut().zip(late) {
                all.extend(left[*n].iter().cloned());
            }
        }
        self.index.remove(&dim);
        self.index.remove(&next_of(&dim));
        Ok((steps, under_way))
    }
}
