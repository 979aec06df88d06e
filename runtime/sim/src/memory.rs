//! The device's global memory: allocations far apart, so that an address belongs to one of them or to none.

use crate::fault::{Problem, SimError};

/// Generic addresses from here on are those of the block's shared memory, and of the thread's local memory.
pub const SHARED_WINDOW: u64 = 1 << 60;
pub const LOCAL_WINDOW: u64 = 1 << 61;

/// The first address that is given out. Small numbers, which are offsets taken for addresses, belong to no allocation.
const FIRST: u64 = 1 << 33;
/// Allocations begin at multiples of this, as `cuMemAlloc` has them.
const ALIGNMENT: u64 = 256;
/// Bytes between two allocations that belong to none.
const GAP: u64 = 1 << 20;

/// Global memory of a device.
#[derive(Debug, Default)]
pub struct Memory {
    /// In the order of their addresses.
    allocations: Vec<Allocation>,
    next: u64,
}

#[derive(Debug)]
struct Allocation {
    address: u64,
    content: Vec<u8>,
}

impl Memory {
    /// An allocation that holds `content`; its address, a multiple of 256.
    pub fn allocate(&mut self, content: &[u8]) -> u64 {
        let address = self.next.max(FIRST);
        self.next = (address + content.len() as u64 + GAP).next_multiple_of(ALIGNMENT);
        self.allocations.push(Allocation { address, content: content.to_vec() });
        address
    }

    /// The bytes at an address.
    ///
    /// # Errors
    /// If they do not lie in one allocation.
    pub fn read(&self, address: u64, bytes: usize) -> Result<&[u8], SimError> {
        let found = self.find(address, bytes).map(|(a, at)| &a.content[at..at + bytes]);
        found.ok_or(SimError::Host { address, bytes })
    }

    /// Writes bytes at an address.
    ///
    /// # Errors
    /// If they do not lie in one allocation.
    pub fn write(&mut self, address: u64, content: &[u8]) -> Result<(), SimError> {
        let bytes = content.len();
        let at = self.slot(address, bytes).ok_or(SimError::Host { address, bytes })?;
        at.copy_from_slice(content);
        Ok(())
    }

    fn index(&self, address: u64) -> Option<usize> {
        self.allocations.partition_point(|a| a.address <= address).checked_sub(1)
    }

    fn find(&self, address: u64, bytes: usize) -> Option<(&Allocation, usize)> {
        let a = &self.allocations[self.index(address)?];
        let at = usize::try_from(address - a.address).ok()?;
        (at.checked_add(bytes)? <= a.content.len()).then_some((a, at))
    }

    fn slot(&mut self, address: u64, bytes: usize) -> Option<&mut [u8]> {
        let index = self.index(address)?;
        let a = &mut self.allocations[index];
        let at = usize::try_from(address - a.address).ok()?;
        a.content.get_mut(at..at.checked_add(bytes)?)
    }

    /// What a lane loads, in the low bytes.
    pub(crate) fn load(&self, address: u64, bytes: u32) -> Result<u64, Problem> {
        aligned(address, bytes)?;
        let (a, at) = self.find(address, bytes as usize).ok_or_else(|| outside(address, bytes))?;
        Ok(word(&a.content[at..at + bytes as usize]))
    }

    /// Stores the low bytes of a lane's value.
    pub(crate) fn store(&mut self, address: u64, bytes: u32, value: u64) -> Result<(), Problem> {
        aligned(address, bytes)?;
        let at = self.slot(address, bytes as usize).ok_or_else(|| outside(address, bytes))?;
        put_word(at, value);
        Ok(())
    }

    /// The bytes that an asynchronous copy takes.
    pub(crate) fn source(&self, address: u64, bytes: u32) -> Result<&[u8], Problem> {
        let found = self.find(address, bytes as usize);
        let (a, at) = found.ok_or_else(|| outside(address, bytes))?;
        Ok(&a.content[at..at + bytes as usize])
    }
}

/// The number in 1, 2, 4 or 8 bytes, lowest first.
pub fn word(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("an access of a lane has 1, 2, 4 or 8 bytes: `module::bytes_of`"),
    }
}

/// Writes the low bytes of a number.
pub fn put_word(bytes: &mut [u8], value: u64) {
    match bytes {
        [a] => *a = value as u8,
        [a, b] => [*a, *b] = (value as u16).to_le_bytes(),
        [a, b, c, d] => [*a, *b, *c, *d] = (value as u32).to_le_bytes(),
        all => all.copy_from_slice(&value.to_le_bytes()),
    }
}

fn outside(address: u64, bytes: u32) -> Problem {
    Problem::Outside { space: "global", address, bytes }
}

/// Whether an address is a multiple of the access's size.
pub fn aligned(address: u64, bytes: u32) -> Result<(), Problem> {
    match address.is_multiple_of(u64::from(bytes)) {
        true => Ok(()),
        false => Err(Problem::Unaligned { address, bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_lies_between_allocations() {
        let mut memory = Memory::default();
        let (a, b) = (memory.allocate(&[1, 2, 3, 4]), memory.allocate(&[0; 8]));
        memory.store(b + 4, 4, 0x0102_0304).unwrap();
        assert_eq!(memory.load(b + 4, 2).unwrap(), 0x0304);
        assert_eq!(memory.read(a, 4).unwrap(), [1, 2, 3, 4]);
        for (address, bytes) in [(a + 4, 4), (a - 4, 4), (b + 8, 1), (0, 4), (u64::MAX - 3, 4)] {
            assert_eq!(memory.load(address, bytes), Err(outside(address, bytes)));
        }
        assert_eq!(memory.load(b + 2, 4), Err(Problem::Unaligned { address: b + 2, bytes: 4 }));
        assert!(memory.write(a, &[0; 5]).is_err());
    }
}
