//! A block: its warps, its shared memory and its barriers.

use std::collections::BTreeMap;

use crate::counts::Counts;
use crate::fault::{Fault, Problem, SimError};
use crate::launch::{Grid, Order, warps};
use crate::memory::Memory;
use crate::module::Kernel;
use crate::shared::Shared;
use crate::warp::{Site, Stop, Trouble, Warp};

/// Threads that have come to a barrier.
#[derive(Debug)]
struct Gathering {
    expected: u32,
    arrived: u32,
    /// Warps that wait, and the instruction each waits at.
    waiting: Vec<usize>,
    /// What those who came knew, together.
    told: Vec<u32>,
}

/// Runs one block to its end.
pub fn run(
    kernel: &Kernel,
    grid: &Grid,
    number: u64,
    parameters: &[u8],
    memory: &mut Memory,
    counts: &mut Counts,
    order: Order,
) -> Result<(), SimError> {
    let count = warps(grid);
    let bytes = kernel.shared as usize + grid.shared as usize;
    let mut shared = Shared::new(bytes, count);
    let mut all: Vec<Warp> = (0..count).map(|w| Warp::new(kernel, grid, number, w)).collect();
    let mut barriers: BTreeMap<u32, Gathering> = BTreeMap::new();
    // A warp that is neither waiting nor at its end may run.
    let mut ready = vec![true; count];
    let fault = |t: Trouble, warp: usize| -> SimError { told(kernel, number, warp, t).into() };
    for round in 1.. {
        let turn: Vec<usize> = order.of(count, round).into_iter().filter(|w| ready[*w]).collect();
        if turn.is_empty() {
            break;
        }
        for w in turn {
            let mut site = Site {
                kernel,
                parameters,
                memory,
                shared: &mut shared,
                counts,
                late: order.late(),
            };
            match all[w].run(&mut site).map_err(|t| fault(t, w))? {
                Stop::End => ready[w] = false,
                Stop::Barrier { number, threads, arrive } => {
                    let come = Come { warp: w, number, threads, arrive, all: count };
                    let problem = come.gather(&mut barriers, &mut shared, &mut ready, counts);
                    problem.map_err(|p| fault(all[w].trouble(p), w))?;
                }
            }
        }
    }
    // Whoever waits now waits for ever.
    match barriers.iter().find(|(_, g)| !g.waiting.is_empty()) {
        Some((barrier, g)) => {
            let (barrier, arrived, expected) = (*barrier, g.arrived, g.expected);
            let w = g.waiting[0];
            Err(fault(all[w].trouble(Problem::Deadlock { barrier, arrived, expected }), w))
        }
        None => Ok(()),
    }
}

fn told(kernel: &Kernel, block: u64, warp: usize, t: Trouble) -> Box<Fault> {
    let at = kernel.instructions.get(t.at);
    Box::new(Fault {
        kernel: kernel.name.clone(),
        line: at.map_or(0, |i| i.line),
        text: at.map_or_else(String::new, |i| i.text.clone()),
        block,
        thread: (warp * crate::lanes::WIDTH + t.lane) as u32,
        problem: t.problem,
    })
}

/// A warp that has come to a barrier.
struct Come {
    warp: usize,
    number: u32,
    /// How many threads the barrier waits for; none: all of the block.
    threads: Option<u32>,
    arrive: bool,
    /// Warps of the block.
    all: usize,
}

impl Come {
    /// Counts the warp in, and lets all go if it was the last.
    fn gather(
        &self,
        barriers: &mut BTreeMap<u32, Gathering>,
        shared: &mut Shared,
        ready: &mut [bool],
        counts: &mut Counts,
    ) -> Result<(), Problem> {
        const WIDTH: u32 = crate::lanes::WIDTH as u32;
        // Whole warps come, whatever of them a block has.
        let now = self.threads.unwrap_or(self.all as u32 * WIDTH);
        let g = barriers.entry(self.number).or_insert_with(|| Gathering {
            expected: now,
            arrived: 0,
            waiting: vec![],
            told: vec![0; self.all],
        });
        if g.expected != now {
            let (barrier, before) = (self.number, g.expected);
            return Err(Problem::Disagree { barrier, before, now });
        }
        for (all, mine) in g.told.iter_mut().zip(shared.clock(self.warp)) {
            *all = (*all).max(*mine);
        }
        shared.step(self.warp);
        g.arrived += WIDTH;
        if !self.arrive {
            g.waiting.push(self.warp);
            ready[self.warp] = false;
        }
        if g.arrived < g.expected {
            return Ok(());
        }
        counts.barriers += 1;
        let Some(g) = barriers.remove(&self.number) else { return Ok(()) };
        for w in g.waiting {
            shared.join(w, &g.told);
            ready[w] = true;
        }
        Ok(())
    }
}
