//! What a launch did, in numbers that do not depend on a clock.

/// Counts over all warps of a launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions of warps.
    pub instructions: u64,
    /// Instructions of lanes: of a warp's instruction, the lanes that executed it.
    pub lanes: u64,
    /// Accesses of warps to global memory.
    pub global_accesses: u64,
    /// Bytes that lanes asked global memory for.
    pub global_bytes: u64,
    /// Sectors of 32 bytes that those accesses touch.
    pub global_sectors: u64,
    /// Accesses of warps to shared memory.
    pub shared_accesses: u64,
    /// Rounds over the 32 banks of shared memory that those accesses take beyond the fewest that their bytes need.
    pub bank_conflicts: u64,
    /// Barriers of blocks that completed.
    pub barriers: u64,
    /// Multiply-adds of matrix instructions.
    pub matrix_multiply_adds: u64,
}

impl Counts {
    /// Adds the counts of another launch.
    pub fn add(&mut self, other: &Counts) {
        self.instructions += other.instructions;
        self.lanes += other.lanes;
        self.global_accesses += other.global_accesses;
        self.global_bytes += other.global_bytes;
        self.global_sectors += other.global_sectors;
        self.shared_accesses += other.shared_accesses;
        self.bank_conflicts += other.bank_conflicts;
        self.barriers += other.barriers;
        self.matrix_multiply_adds += other.matrix_multiply_adds;
    }

    /// Counts an access of lanes to global memory: `addresses` of `bytes` each.
    pub(crate) fn global(&mut self, addresses: impl Iterator<Item = u64>, bytes: u64) {
        const SECTOR: u64 = 32;
        // An access is aligned to its size, at most 16 bytes, so each lane's lies in one sector.
        let mut sectors = [0u64; 32];
        let mut count = 0;
        for address in addresses {
            sectors[count] = address / SECTOR;
            count += 1;
        }
        let sectors = &mut sectors[..count];
        // Mostly lanes go upwards.
        if !sectors.is_sorted() {
            sectors.sort_unstable();
        }
        let distinct = sectors.windows(2).filter(|w| w[0] != w[1]).count() + usize::from(count > 0);
        self.global_accesses += 1;
        self.global_bytes += count as u64 * bytes;
        self.global_sectors += distinct as u64;
    }

    /// Counts an access of lanes to shared memory: `addresses` of `bytes` each. Lanes that ask for the same word
    /// share it; lanes of 8 and 16 bytes go by halves and quarters of a warp.
    pub(crate) fn shared(&mut self, addresses: impl Iterator<Item = u32>, bytes: u32) {
        const BANKS: u32 = 32;
        let words = bytes.div_ceil(4).max(1);
        let group = (BANKS / words) as usize;
        let all: Vec<u32> = addresses.collect();
        self.shared_accesses += 1;
        for part in all.chunks(group) {
            let mut asked: Vec<u32> =
                part.iter().flat_map(|a| (0..words).map(move |w| a / 4 + w)).collect();
            asked.sort_unstable();
            asked.dedup();
            let mut banks = [0u64; BANKS as usize];
            for word in asked {
                banks[(word % BANKS) as usize] += 1;
            }
            self.bank_conflicts += banks.iter().max().map_or(0, |most| most.saturating_sub(1));
        }
    }
}
