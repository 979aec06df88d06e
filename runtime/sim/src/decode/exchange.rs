//! Instructions between threads: barriers, shuffles, votes.

use super::Reader;
use crate::fault::SimError;
use crate::instruction::{Place, Shuffle, Vote, What};
use crate::module::unknown;

impl Reader<'_> {
    /// `bar.sync 0`, `bar.sync 1, 64`, `barrier.arrive 1, 64`, `bar.warp.sync`.
    pub(super) fn barrier(&mut self) -> Result<What, SimError> {
        let arrive = match self.parts[1..] {
            ["warp", "sync"] => {
                self.members(0)?;
                return Ok(What::WarpBarrier);
            }
            ["sync"] | ["sync", "aligned"] | ["cta", "sync"] | ["cta", "sync", "aligned"] => false,
            ["arrive"] | ["arrive", "aligned"] => true,
            _ => return Err(self.unknown()),
        };
        let number = self.narrow_or_fail(0)?;
        let threads = match self.operands.len() {
            1 if !arrive => None,
            2 => Some(self.narrow(1)?),
            _ => {
                return Err(unknown(
                    self.s,
                    "a barrier's number, and how many threads it waits for",
                ));
            }
        };
        Ok(What::Barrier { number, threads, arrive })
    }

    fn narrow_or_fail(&mut self, i: usize) -> Result<usize, SimError> {
        match i < self.operands.len() {
            true => self.narrow(i),
            false => Err(unknown(self.s, "an operand is missing")),
        }
    }

    /// The lanes that take part: all of them, for nothing else is simulated.
    fn members(&mut self, i: usize) -> Result<(), SimError> {
        match self.operands.get(i) {
            Some(&("-1" | "0xffffffff" | "0xFFFFFFFF" | "4294967295")) => Ok(()),
            _ => Err(unknown(self.s, "only whole warps are simulated here: the lanes must be -1")),
        }
    }

    /// `shfl.sync.bfly.b32 %r1|%p1, %r2, 1, 31, -1`.
    pub(super) fn shuffle(&mut self) -> Result<What, SimError> {
        self.count(5)?;
        let how = match self.parts[1..] {
            ["sync", "up", "b32"] => Shuffle::Up,
            ["sync", "down", "b32"] => Shuffle::Down,
            ["sync", "bfly", "b32"] => Shuffle::Butterfly,
            ["sync", "idx", "b32"] => Shuffle::Index,
            _ => return Err(self.unknown()),
        };
        self.members(4)?;
        let (d, valid) = match self.operands[0].split_once('|') {
            Some((d, valid)) => (d, Some(self.names.predicate(self.s, valid)?)),
            None => (self.operands[0], None),
        };
        let d = self.names.narrow(self.s, d)?;
        let (a, by, clamp) = (self.narrow(1)?, self.narrow(2)?, self.narrow(3)?);
        Ok(What::Shuffle { how, d, valid, a, by, clamp })
    }

    /// `vote.sync.any.pred %p1, %p2, -1`, `vote.sync.ballot.b32 %r1, !%p2, -1`.
    pub(super) fn vote(&mut self) -> Result<What, SimError> {
        self.count(3)?;
        let how = match self.parts[1..] {
            ["sync", "all", "pred"] => Vote::All,
            ["sync", "any", "pred"] => Vote::Any,
            ["sync", "ballot", "b32"] => Vote::Ballot,
            _ => return Err(self.unknown()),
        };
        self.members(2)?;
        let negated = self.operands[1].starts_with('!');
        let a = self.names.predicate(self.s, self.operands[1].trim_start_matches('!'))?;
        let (d, predicate) = match how {
            Vote::Ballot => (Place::Narrow(self.narrow(0)?), None),
            _ => (Place::Nowhere, Some(self.predicate(0)?)),
        };
        Ok(What::Vote { how, d, predicate, a, negated })
    }

    /// `elect.sync _|%p1, -1`.
    pub(super) fn elect(&mut self) -> Result<What, SimError> {
        self.count(2)?;
        self.members(1)?;
        match self.operands[0].split_once('|') {
            Some(("_", p)) => Ok(What::Elect { d: self.names.predicate(self.s, p)? }),
            _ => Err(unknown(self.s, "elect.sync is simulated as _|%p only")),
        }
    }
}
