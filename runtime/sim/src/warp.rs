//! A warp: 32 lanes, their registers, and what they do.

use std::collections::VecDeque;

use crate::counts::Counts;
use crate::fault::Problem;
use crate::instruction::{Address, Base, Instruction, Place, Shuffle, Space, Vote, What};
use crate::lanes::{FULL, Mask, Narrow, WIDTH, Wide, blend, lanes};
use crate::launch::Grid;
use crate::matrix;
use crate::memory::{LOCAL_WINDOW, Memory, SHARED_WINDOW, aligned};
use crate::module::{Constant, Kernel, Special};
use crate::shared::{Shared, Thread};
use crate::table::Compute;

/// What registers hold before anything is written to them: as an f32 it is NaN.
const POISON: u32 = 0xffff_ffff;

/// What a warp has of the block and of the device.
pub struct Site<'a> {
    pub kernel: &'a Kernel,
    pub parameters: &'a [u8],
    pub memory: &'a mut Memory,
    pub shared: &'a mut Shared,
    pub counts: &'a mut Counts,
    /// Copies land when they are waited for.
    pub late: bool,
}

/// Why a warp does not go on.
#[derive(Debug)]
pub enum Stop {
    End,
    Barrier { number: u32, threads: Option<u32>, arrive: bool },
}

/// A problem, with the instruction and the lane that had it.
#[derive(Debug)]
pub struct Trouble {
    pub at: usize,
    pub lane: usize,
    pub problem: Problem,
}

/// A copy in flight.
#[derive(Debug)]
struct Copy {
    lane: usize,
    to: u64,
    bytes: u32,
    from: u64,
    /// Bytes that are taken; those behind them are zeros.
    size: u32,
    /// What was there at the start, where copies land early.
    taken: Option<Vec<u8>>,
}

/// Registers and places of 32 lanes.
#[derive(Debug)]
pub struct Warp {
    number: usize,
    narrow: Vec<Narrow>,
    wide: Vec<Wide>,
    predicates: Vec<Mask>,
    /// Local memory, lane after lane.
    local: Vec<u8>,
    local_bytes: usize,
    /// Lanes that have not ended.
    live: Mask,
    /// Lanes that run together, and their next instruction.
    groups: Vec<(usize, Mask)>,
    /// The last instruction that was begun.
    at: usize,
    /// Copies of no group yet, and groups of copies, oldest first.
    open: Vec<Copy>,
    committed: VecDeque<Vec<Copy>>,
}

type Lane = (usize, Problem);

impl Warp {
    /// Warp `number` of a block, before its first instruction.
    pub fn new(kernel: &Kernel, grid: &Grid, block: u64, number: usize) -> Warp {
        let threads: u32 = grid.threads.iter().product();
        let here = (threads as usize - number * WIDTH).min(WIDTH);
        let live = if here == WIDTH { FULL } else { (1 << here) - 1 };
        let mut warp = Warp {
            number,
            narrow: vec![[POISON; WIDTH]; kernel.narrow],
            wide: vec![[u64::from(POISON) << 32 | u64::from(POISON); WIDTH]; kernel.wide],
            predicates: vec![0; kernel.predicates],
            local: vec![0xff; kernel.local as usize * WIDTH],
            local_bytes: kernel.local as usize,
            live,
            groups: vec![(0, live)],
            at: 0,
            open: vec![],
            committed: VecDeque::new(),
        };
        for (register, constant) in &kernel.constants {
            match *constant {
                Constant::Narrow(x) => warp.narrow[*register] = [x; WIDTH],
                Constant::Wide(x) => warp.wide[*register] = [x; WIDTH],
                Constant::Predicate(x) => warp.predicates[*register] = if x { FULL } else { 0 },
                Constant::Special(s) => warp.narrow[*register] = special(s, grid, block, number),
            }
        }
        warp
    }

    /// A problem of the instruction that was begun last.
    pub fn trouble(&self, problem: Problem) -> Trouble {
        Trouble { at: self.at, lane: 0, problem }
    }

    /// Runs until a barrier or the end. Of lanes that have branched apart, those at the lowest instruction run, until
    /// they reach the next.
    pub fn run(&mut self, site: &mut Site<'_>) -> Result<Stop, Trouble> {
        while let Some(lowest) = self.groups.iter().map(|g| g.0).min() {
            let mut mask = 0;
            self.groups.retain(|(pc, lanes)| {
                mask |= if *pc == lowest { *lanes } else { 0 };
                *pc != lowest
            });
            let next = self.groups.iter().map(|g| g.0).min().unwrap_or(usize::MAX);
            if let Some(stop) = self.run_group(site, lowest, mask, next)? {
                return Ok(stop);
            }
        }
        match self.open.len() + self.committed.iter().map(Vec::len).sum::<usize>() {
            0 => Ok(Stop::End),
            n => Err(self.trouble(Problem::Abandoned(n as u32))),
        }
    }

    /// Runs the lanes of `mask` from `pc` until they reach `next` or beyond, branch apart, stop or end.
    fn run_group(
        &mut self,
        site: &mut Site<'_>,
        mut pc: usize,
        mut mask: Mask,
        next: usize,
    ) -> Result<Option<Stop>, Trouble> {
        let kernel = site.kernel;
        while pc < next {
            // The end of the text is the kernel's.
            let Some(i) = kernel.instructions.get(pc) else { break };
            self.at = pc;
            let active = match i.guard {
                Some(g) if g.negated => mask & !self.predicates[g.predicate],
                Some(g) => mask & self.predicates[g.predicate],
                None => mask,
            };
            site.counts.instructions += 1;
            site.counts.lanes += u64::from(active.count_ones());
            pc += 1;
            match &i.what {
                What::Branch { to } if active == mask => pc = *to,
                What::Branch { .. } if active == 0 => {}
                What::Branch { to } => {
                    self.groups.extend([(pc, mask & !active), (*to, active)]);
                    return Ok(None);
                }
                What::End => {
                    (self.live, mask) = (self.live & !active, mask & !active);
                    if mask == 0 {
                        return Ok(None);
                    }
                }
                What::Barrier { number, threads, arrive } if active != 0 => {
                    self.together(active)?;
                    self.groups.push((pc, mask));
                    let threads = threads.map(|t| self.narrow[t][0]);
                    let number = self.narrow[*number][0];
                    return Ok(Some(Stop::Barrier { number, threads, arrive: *arrive }));
                }
                _ if active == 0 => {}
                _ => {
                    if needs_all(&i.what) {
                        self.together(active)?;
                    }
                    self.execute(site, i, active).map_err(|(lane, problem)| Trouble {
                        at: self.at,
                        lane,
                        problem,
                    })?;
                }
            }
        }
        if pc < kernel.instructions.len() {
            self.groups.push((pc, mask));
        }
        Ok(None)
    }

    /// Fails unless all lanes that have not ended are here.
    fn together(&self, lanes: Mask) -> Result<(), Trouble> {
        match lanes == self.live {
            true => Ok(()),
            false => Err(self.trouble(Problem::Diverged { lanes, live: self.live })),
        }
    }

    /// What needs registers only.
    fn on_registers(&mut self, what: &What, active: Mask) {
        match what {
            What::Compute { compute, d, a } => self.compute(*compute, *d, *a, active),
            What::CompareNarrow { compare, d, a: [a, b], join } => {
                let mask = compare(&self.narrow[*a], &self.narrow[*b]);
                let mask = join.map_or(mask, |(f, p)| f(mask, self.predicates[p]));
                self.set(*d, mask, active);
            }
            What::CompareWide { compare, d, a: [a, b], join } => {
                let mask = compare(&self.wide[*a], &self.wide[*b]);
                let mask = join.map_or(mask, |(f, p)| f(mask, self.predicates[p]));
                self.set(*d, mask, active);
            }
            What::Logic { logic, d, a: [a, b] } => {
                let mask = logic(self.predicates[*a], self.predicates[*b]);
                self.set(*d, mask, active);
            }
            What::SelectNarrow { d, a: [a, b], by } => {
                let mut out = self.narrow[*b];
                blend(&mut out, &self.narrow[*a], self.predicates[*by]);
                blend(&mut self.narrow[*d], &out, active);
            }
            What::SelectWide { d, a: [a, b], by } => {
                let mut out = self.wide[*b];
                blend(&mut out, &self.wide[*a], self.predicates[*by]);
                blend(&mut self.wide[*d], &out, active);
            }
            What::Pack { d, a } => {
                let bits = if matches!(d, Place::Wide(_)) { 32 } else { 16 };
                let part = (1u64 << bits) - 1;
                for lane in lanes(active) {
                    let low = self.value(a[0], lane) & part;
                    self.put(*d, lane, self.value(a[1], lane) << bits | low);
                }
            }
            What::Unpack { d, a } => {
                let bits = if matches!(a, Place::Wide(_)) { 32 } else { 16 };
                for lane in lanes(active) {
                    let value = self.value(*a, lane);
                    self.put(d[0], lane, value & ((1 << bits) - 1));
                    self.put(d[1], lane, value >> bits);
                }
            }
            What::Vote { how, d, predicate, a, negated } => {
                let mask = self.predicates[*a] ^ if *negated { FULL } else { 0 };
                let said = match how {
                    Vote::All => mask & active == active,
                    Vote::Any | Vote::Ballot => mask & active != 0,
                };
                match predicate {
                    Some(p) => self.set(*p, if said { FULL } else { 0 }, active),
                    None => lanes(active).for_each(|l| self.put(*d, l, u64::from(mask & active))),
                }
            }
            What::Elect { d } => self.set(*d, 1 << active.trailing_zeros(), active),
            _ => {}
        }
    }

    fn execute(&mut self, site: &mut Site<'_>, i: &Instruction, active: Mask) -> Result<(), Lane> {
        match &i.what {
            What::LoadParameter { d, offset, bytes } => {
                let mut value = [0; 8];
                let end = offset + *bytes as usize;
                let given = site.parameters.get(*offset..end);
                let outside =
                    Problem::Outside { space: "parameter", address: *offset as u64, bytes: *bytes };
                value[..*bytes as usize].copy_from_slice(given.ok_or((0, outside))?);
                for lane in lanes(active) {
                    self.put(*d, lane, u64::from_le_bytes(value));
                }
            }
            What::Load { space, bytes, signed, d, address } => {
                self.load(site, (*space, *bytes, *signed), d, address, active)?;
            }
            What::Store { space, bytes, a, address } => {
                self.store(site, (*space, *bytes), a, address, active)?;
            }
            What::WarpBarrier => site.shared.step(self.number),
            What::Shuffle { how, d, valid, a, by, clamp } => {
                let (out, inside) = self.shuffled(*how, *a, *by, *clamp);
                blend(&mut self.narrow[*d], &out, active);
                if let Some(p) = valid {
                    self.set(*p, inside, active);
                }
            }
            What::Copy { bytes, to, from, size } => {
                self.start_copies(site, *bytes, [to, from], *size, active)?;
            }
            What::CommitCopies => self.committed.push_back(std::mem::take(&mut self.open)),
            What::WaitCopies { left, all } => self.wait_copies(site, *left, *all)?,
            What::LoadMatrices { d, address, transposed } => {
                self.load_matrices(site, d, address, *transposed)?;
            }
            What::Mma { factor, d, a, b, c } => {
                let of = |r: &[usize]| r.iter().map(|r| &self.narrow[*r]).collect::<Vec<_>>();
                let out = matrix::mma(*factor, &of(a), &of(b), c.map(|r| &self.narrow[r]));
                site.counts.matrix_multiply_adds += matrix::multiply_adds(*factor, b.len());
                for (d, out) in d.iter().zip(out) {
                    self.narrow[*d] = out;
                }
            }
            What::AtomicAdd { space, d, address, a } => {
                for lane in lanes(active) {
                    let at = self.address(address, lane);
                    let fail = |p| (lane, p);
                    let before = self.load_one(site, *space, lane, at, 4).map_err(fail)?;
                    let sum = (before as u32).wrapping_add(self.narrow[*a][lane]);
                    self.store_one(site, *space, lane, at, 4, u64::from(sum)).map_err(fail)?;
                    self.put(*d, lane, before);
                }
            }
            other => self.on_registers(other, active),
        }
        Ok(())
    }

    fn compute(&mut self, compute: Compute, d: usize, a: [usize; 3], active: Mask) {
        let [a, b, c] = a;
        match compute {
            Compute::Narrow(_, f) => {
                let mut out = [0; WIDTH];
                f(&mut out, &self.narrow[a], &self.narrow[b], &self.narrow[c]);
                blend(&mut self.narrow[d], &out, active);
            }
            Compute::Shrink(f) => {
                let mut out = [0; WIDTH];
                f(&mut out, &self.wide[a]);
                blend(&mut self.narrow[d], &out, active);
            }
            Compute::Wide(_, f) => {
                let mut out = [0; WIDTH];
                f(&mut out, &self.wide[a], &self.wide[b], &self.wide[c]);
                blend(&mut self.wide[d], &out, active);
            }
            Compute::Shift(_, f) => {
                let mut out = [0; WIDTH];
                f(&mut out, &self.wide[a], &self.narrow[b], &self.narrow[c]);
                blend(&mut self.wide[d], &out, active);
            }
            Compute::Widen(_, f) => {
                let mut out = [0; WIDTH];
                f(&mut out, &self.narrow[a], &self.narrow[b], &self.wide[c]);
                blend(&mut self.wide[d], &out, active);
            }
        }
    }

    fn set(&mut self, predicate: usize, mask: Mask, active: Mask) {
        let p = &mut self.predicates[predicate];
        *p = *p & !active | mask & active;
    }

    fn value(&self, place: Place, lane: usize) -> u64 {
        match place {
            Place::Narrow(r) => u64::from(self.narrow[r][lane]),
            Place::Wide(r) => self.wide[r][lane],
            Place::Nowhere => 0,
        }
    }

    fn put(&mut self, place: Place, lane: usize, value: u64) {
        match place {
            Place::Narrow(r) => self.narrow[r][lane] = value as u32,
            Place::Wide(r) => self.wide[r][lane] = value,
            Place::Nowhere => {}
        }
    }

    fn address(&self, a: &Address, lane: usize) -> u64 {
        let base = match a.base {
            Base::None => 0,
            Base::Narrow(r) => u64::from(self.narrow[r][lane]),
            Base::Wide(r) => self.wide[r][lane],
        };
        base.wrapping_add_signed(a.offset)
    }

    fn thread(&self, lane: usize) -> Thread {
        Thread { warp: self.number, lane }
    }

    /// `shfl.sync`: of each lane, the register of another, and whether that one is in its segment.
    fn shuffled(&self, how: Shuffle, a: usize, by: usize, clamp: usize) -> (Narrow, Mask) {
        let mut inside = 0;
        let out = std::array::from_fn(|lane| {
            let (b, c) = (self.narrow[by][lane] as usize & 31, self.narrow[clamp][lane] as usize);
            let (segment, clamp) = (c >> 8 & 31, c & 31);
            let (first, last) = (lane & segment, lane & segment | clamp & !segment);
            let (from, valid) = match how {
                Shuffle::Up => (lane.wrapping_sub(b), lane >= b && lane - b >= last),
                Shuffle::Down => (lane + b, lane + b <= last),
                Shuffle::Butterfly => (lane ^ b, lane ^ b <= last),
                Shuffle::Index => (first | b & !segment, first | b & !segment <= last),
            };
            inside |= Mask::from(valid) << lane;
            let from = if valid { from } else { lane };
            if self.live >> from & 1 == 1 { self.narrow[a][from] } else { POISON }
        });
        (out, inside)
    }
}

/// Whether all lanes of a warp must execute it together. Groups of copies are each thread's own on a card; here they
/// are the warp's.
fn needs_all(what: &What) -> bool {
    matches!(
        what,
        What::WarpBarrier
            | What::Shuffle { .. }
            | What::Vote { .. }
            | What::Elect { .. }
            | What::CommitCopies
            | What::WaitCopies { .. }
            | What::LoadMatrices { .. }
            | What::Mma { .. }
    )
}

fn special(s: Special, grid: &Grid, block: u64, warp: usize) -> Narrow {
    let of = |sizes: [u32; 3], mut number: u64, dim: usize| {
        for size in &sizes[..dim] {
            number /= u64::from(*size);
        }
        (number % u64::from(sizes[dim])) as u32
    };
    std::array::from_fn(|lane| match s {
        Special::Thread(dim) => of(grid.threads, (warp * WIDTH + lane) as u64, dim),
        Special::Threads(dim) => grid.threads[dim],
        Special::Block(dim) => of(grid.blocks, block, dim),
        Special::Blocks(dim) => grid.blocks[dim],
        Special::Lane => lane as u32,
        Special::Warp => warp as u32,
    })
}

mod access;
