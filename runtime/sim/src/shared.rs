//! Shared memory of a block, and the order of its accesses.
//!
//! Every two bytes remember who wrote them last and which warps have read them since. Warps have vector clocks, which
//! barriers join: an access is ordered behind another if the other's warp has told of it since, at a barrier that both
//! took part in. (Flanagan and Freund, *FastTrack*, PLDI 2009, with warps for threads.) What is not ordered is a race,
//! whatever values it gave here. Lanes of one warp run in lockstep here and need not on a card, so an access is ordered
//! behind that of another lane only by a barrier of the block or of the warp.
//!
//! An asynchronous copy writes from its start until a wait of the thread that started it: nobody may touch its target
//! between. After the wait the target counts as written by that thread, which a barrier must tell to others.

use crate::fault::Problem;
use crate::lanes::WIDTH;
use crate::memory::{aligned, put_word, word};

/// Bytes that are watched together: no kernel shares less between threads.
const GRANULE: usize = 2;

/// The shared memory of one block, and the clocks of its warps.
#[derive(Debug)]
pub struct Shared {
    content: Vec<u8>,
    warps: usize,
    /// Of each granule, the last write.
    writes: Vec<Access>,
    /// Of each granule and warp, the last read since that write.
    reads: Vec<Access>,
    /// Of each granule, 1 + the thread whose copy may still write it.
    flights: Vec<u32>,
    /// Row `w`: how much of each warp's past warp `w` has been told of.
    clocks: Vec<Vec<u32>>,
}

/// An access of a thread at a moment of its warp; none where the moment is 0.
#[derive(Debug, Clone, Copy, Default)]
struct Access {
    moment: u32,
    thread: u32,
    /// Other lanes of the warp did the same at that moment.
    several: bool,
}

/// Who accesses.
#[derive(Debug, Clone, Copy)]
pub struct Thread {
    pub warp: usize,
    pub lane: usize,
}

impl Thread {
    fn number(self) -> u32 {
        (self.warp * WIDTH + self.lane) as u32
    }
}

impl Shared {
    /// Memory that nobody wrote, of a block of so many warps.
    pub fn new(bytes: usize, warps: usize) -> Shared {
        let granules = bytes.div_ceil(GRANULE);
        let clocks = (0..warps).map(|w| (0..warps).map(|v| u32::from(v == w)).collect()).collect();
        Shared {
            content: vec![0xff; granules * GRANULE],
            warps,
            writes: vec![Access::default(); granules],
            reads: vec![Access::default(); granules * warps],
            flights: vec![0; granules],
            clocks,
        }
    }

    fn granules(&self, at: u64, bytes: u32) -> Result<std::ops::Range<usize>, Problem> {
        aligned(at, bytes)?;
        let end = at.checked_add(u64::from(bytes)).filter(|e| *e <= self.content.len() as u64);
        let outside = Problem::Outside { space: "shared", address: at, bytes };
        let end = end.ok_or(outside)? as usize;
        Ok(at as usize / GRANULE..end.div_ceil(GRANULE))
    }

    /// What a thread reads, in the low bytes.
    pub fn load(&mut self, who: Thread, at: u64, bytes: u32) -> Result<u64, Problem> {
        self.read(who, at, bytes)?;
        let at = at as usize;
        Ok(word(&self.content[at..at + bytes as usize]))
    }

    /// The bytes that a thread reads of a row.
    pub fn row(&mut self, who: Thread, at: u64, bytes: u32) -> Result<&[u8], Problem> {
        self.read(who, at, bytes)?;
        Ok(&self.content[at as usize..at as usize + bytes as usize])
    }

    /// Writes the low bytes of a thread's value.
    pub fn store(&mut self, who: Thread, at: u64, bytes: u32, value: u64) -> Result<(), Problem> {
        for g in self.granules(at, bytes)? {
            self.may_write(who, g, "write")?;
            self.wrote(who, g);
        }
        let at = at as usize;
        put_word(&mut self.content[at..at + bytes as usize], value);
        Ok(())
    }

    /// A copy may write these bytes from now on.
    pub fn take_off(&mut self, who: Thread, at: u64, bytes: u32) -> Result<(), Problem> {
        for g in self.granules(at, bytes)? {
            self.may_write(who, g, "copy")?;
            self.flights[g] = 1 + who.number();
        }
        Ok(())
    }

    /// The copy's bytes are there, for the thread that started it.
    pub fn land(&mut self, who: Thread, at: u64, content: &[u8]) {
        let at = at as usize;
        self.content[at..at + content.len()].copy_from_slice(content);
        for g in at / GRANULE..(at + content.len()).div_ceil(GRANULE) {
            self.flights[g] = 0;
            self.wrote(who, g);
        }
    }

    /// The warp's lanes have waited for each other.
    pub fn step(&mut self, warp: usize) {
        self.clocks[warp][warp] += 1;
    }

    /// What a warp tells at a barrier: all it knows.
    pub fn clock(&self, warp: usize) -> &[u32] {
        &self.clocks[warp]
    }

    /// A warp is told what came together at a barrier.
    pub fn join(&mut self, warp: usize, told: &[u32]) {
        for (mine, theirs) in self.clocks[warp].iter_mut().zip(told) {
            *mine = (*mine).max(*theirs);
        }
    }

    fn read(&mut self, who: Thread, at: u64, bytes: u32) -> Result<(), Problem> {
        for g in self.granules(at, bytes)? {
            self.not_in_flight(g)?;
            let write = self.writes[g];
            if write.moment == 0 {
                return Err(Problem::Unwritten { address: (g * GRANULE) as u32 });
            }
            self.ordered(who, write, g, ["read", "write"])?;
            let moment = self.clocks[who.warp][who.warp];
            let last = &mut self.reads[g * self.warps + who.warp];
            let several = last.moment == moment && (last.several || last.thread != who.number());
            *last = Access { moment, thread: who.number(), several };
        }
        Ok(())
    }

    fn may_write(&self, who: Thread, g: usize, now: &'static str) -> Result<(), Problem> {
        self.not_in_flight(g)?;
        self.ordered(who, self.writes[g], g, [now, "write"])?;
        for read in &self.reads[g * self.warps..(g + 1) * self.warps] {
            self.ordered(who, *read, g, [now, "read"])?;
        }
        Ok(())
    }

    fn wrote(&mut self, who: Thread, g: usize) {
        let moment = self.clocks[who.warp][who.warp];
        self.writes[g] = Access { moment, thread: who.number(), several: false };
        self.reads[g * self.warps..(g + 1) * self.warps].fill(Access::default());
    }

    fn not_in_flight(&self, g: usize) -> Result<(), Problem> {
        match self.flights[g] {
            0 => Ok(()),
            n => Err(Problem::InFlight { address: (g * GRANULE) as u32, other: n - 1 }),
        }
    }

    /// Fails unless `before` is ordered before what `who` does now.
    fn ordered(
        &self,
        who: Thread,
        before: Access,
        g: usize,
        words: [&'static str; 2],
    ) -> Result<(), Problem> {
        let warp = before.thread as usize / WIDTH;
        let known = self.clocks[who.warp][warp];
        let ordered = match warp == who.warp {
            true => before.moment < known || before.thread == who.number() && !before.several,
            false => before.moment <= known,
        };
        if before.moment == 0 || ordered {
            return Ok(());
        }
        let [now, was] = words;
        let address = (g * GRANULE) as u32;
        Err(Problem::Race { now, before: was, address, other: before.thread })
    }
}
