//! A warp's accesses to memory.

use super::{Address, Copy, Lane, Narrow, Site, Space, Warp, aligned, lanes, matrix};
use super::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::fault::Problem;
use crate::instruction::Place;
use crate::lanes::{FULL, Mask, WIDTH};
use crate::memory::{put_word, word};

impl Warp {
    pub(super) fn load(
        &mut self,
        site: &mut Site<'_>,
        (space, bytes, signed): (Space, u32, bool),
        d: &[Place],
        address: &Address,
        active: Mask,
    ) -> Result<(), Lane> {
        self.count(site, space, bytes * d.len() as u32, address, active);
        for lane in lanes(active) {
            let at = self.address(address, lane);
            let fail = |p| (lane, p);
            aligned(at, bytes * d.len() as u32).map_err(fail)?;
            for (k, place) in d.iter().enumerate() {
                let at = at + k as u64 * u64::from(bytes);
                let mut value = self.load_one(site, space, lane, at, bytes).map_err(fail)?;
                if signed {
                    let unused = 64 - 8 * bytes;
                    value = (((value << unused) as i64) >> unused) as u64;
                }
                self.put(*place, lane, value);
            }
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        site: &mut Site<'_>,
        (space, bytes): (Space, u32),
        a: &[Place],
        address: &Address,
        active: Mask,
    ) -> Result<(), Lane> {
        self.count(site, space, bytes * a.len() as u32, address, active);
        for lane in lanes(active) {
            let at = self.address(address, lane);
            let fail = |p| (lane, p);
            aligned(at, bytes * a.len() as u32).map_err(fail)?;
            for (k, place) in a.iter().enumerate() {
                let at = at + k as u64 * u64::from(bytes);
                let value = self.value(*place, lane);
                self.store_one(site, space, lane, at, bytes, value).map_err(fail)?;
            }
        }
        Ok(())
    }

    fn count(&self, site: &mut Site<'_>, space: Space, bytes: u32, a: &Address, active: Mask) {
        let addresses = lanes(active).map(|l| self.address(a, l));
        match space {
            Space::Global => site.counts.global(addresses, u64::from(bytes)),
            Space::Shared => site.counts.shared(addresses.map(|a| a as u32), bytes),
            Space::Local | Space::Generic => {}
        }
    }

    pub(super) fn load_one(
        &self,
        site: &mut Site<'_>,
        space: Space,
        lane: usize,
        at: u64,
        bytes: u32,
    ) -> Result<u64, Problem> {
        match resolved(space, at) {
            (Space::Shared, at) => site.shared.load(self.thread(lane), at, bytes),
            (Space::Local, at) => {
                let range = self.local_range(lane, at, bytes)?;
                Ok(word(&self.local[range]))
            }
            (_, at) => site.memory.load(at, bytes),
        }
    }

    pub(super) fn store_one(
        &mut self,
        site: &mut Site<'_>,
        space: Space,
        lane: usize,
        at: u64,
        bytes: u32,
        value: u64,
    ) -> Result<(), Problem> {
        match resolved(space, at) {
            (Space::Shared, at) => site.shared.store(self.thread(lane), at, bytes, value),
            (Space::Local, at) => {
                let range = self.local_range(lane, at, bytes)?;
                put_word(&mut self.local[range], value);
                Ok(())
            }
            (_, at) => site.memory.store(at, bytes, value),
        }
    }

    fn local_range(
        &self,
        lane: usize,
        at: u64,
        bytes: u32,
    ) -> Result<std::ops::Range<usize>, Problem> {
        aligned(at, bytes)?;
        let outside = Problem::Outside { space: "local", address: at, bytes };
        let end = at.checked_add(u64::from(bytes)).filter(|e| *e <= self.local_bytes as u64);
        let end = end.ok_or(outside)? as usize;
        let base = lane * self.local_bytes;
        Ok(base + at as usize..base + end)
    }

    /// `cp.async`: the bytes are on their way from now on.
    pub(super) fn start_copies(
        &mut self,
        site: &mut Site<'_>,
        bytes: u32,
        [to, from]: [&Address; 2],
        size: Option<usize>,
        active: Mask,
    ) -> Result<(), Lane> {
        self.count(site, Space::Shared, bytes, to, active);
        self.count(site, Space::Global, bytes, from, active);
        for lane in lanes(active) {
            let fail = |p| (lane, p);
            let (to, from) = (self.address(to, lane), self.address(from, lane));
            let to = resolved(Space::Generic, to).1;
            aligned(from, bytes).map_err(fail)?;
            let size = size.map_or(bytes, |s| self.narrow[s][lane].min(bytes));
            site.shared.take_off(self.thread(lane), to, bytes).map_err(fail)?;
            let mut copy = Copy { lane, to, bytes, from, size, taken: None };
            if !site.late {
                copy.taken = Some(copy.content(site).map_err(fail)?);
            }
            self.open.push(copy);
        }
        Ok(())
    }

    /// Copies land until at most `left` groups are in flight, and with `all` those of no group too.
    pub(super) fn wait_copies(
        &mut self,
        site: &mut Site<'_>,
        left: usize,
        all: bool,
    ) -> Result<(), Lane> {
        let groups = self.committed.len().saturating_sub(left);
        let mut due: Vec<Copy> = self.committed.drain(..groups).flatten().collect();
        if all {
            due.append(&mut self.open);
        }
        for mut copy in due {
            let content = match copy.taken.take() {
                Some(content) => content,
                None => copy.content(site).map_err(|p| (copy.lane, p))?,
            };
            site.shared.land(self.thread(copy.lane), copy.to, &content);
        }
        Ok(())
    }

    /// `ldmatrix`: the rows of matrix `i` are at the addresses of lanes 8i to 8i + 7.
    pub(super) fn load_matrices(
        &mut self,
        site: &mut Site<'_>,
        d: &[usize],
        address: &Address,
        transposed: bool,
    ) -> Result<(), Lane> {
        const ROW: u32 = 16;
        let used = if 8 * d.len() == WIDTH { FULL } else { (1 << (8 * d.len())) - 1 };
        self.count(site, Space::Shared, ROW, address, used);
        let mut out: Vec<Narrow> = vec![];
        for i in 0..d.len() {
            let mut rows = [[0; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * i + r;
                let at = resolved(Space::Generic, self.address(address, lane)).1;
                let bytes = site.shared.row(self.thread(lane), at, ROW).map_err(|p| (lane, p))?;
                for (element, b) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                    *element = u16::from_le_bytes([b[0], b[1]]);
                }
            }
            out.push(matrix::matrix_of_rows(&rows, transposed));
        }
        for (d, out) in d.iter().zip(out) {
            self.narrow[*d] = out;
        }
        Ok(())
    }
}

impl Copy {
    /// What the copy brings.
    fn content(&self, site: &Site<'_>) -> Result<Vec<u8>, Problem> {
        let mut content = match self.size {
            0 => vec![],
            size => site.memory.source(self.from, size)?.to_vec(),
        };
        content.resize(self.bytes as usize, 0);
        Ok(content)
    }
}

/// The space of an address, and the address there.
fn resolved(space: Space, at: u64) -> (Space, u64) {
    match space {
        Space::Generic if at & LOCAL_WINDOW != 0 => (Space::Local, at & !LOCAL_WINDOW),
        Space::Generic if at & SHARED_WINDOW != 0 => (Space::Shared, at & !SHARED_WINDOW),
        Space::Generic => (Space::Global, at),
        named => (named, at),
    }
}
