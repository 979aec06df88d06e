//! Values of a warp: one of each lane.

/// Lanes of a warp.
pub const WIDTH: usize = 32;

/// A register of at most 32 bits, of each lane; shorter ones have zeros above.
pub type Narrow = [u32; WIDTH];

/// A register of 64 bits, of each lane.
pub type Wide = [u64; WIDTH];

/// A set of lanes: lane `i` is bit `i`.
pub type Mask = u32;

/// All lanes.
pub const FULL: Mask = !0;

/// The lanes of a mask, lowest first.
pub fn lanes(mask: Mask) -> impl Iterator<Item = usize> {
    (0..WIDTH).filter(move |l| mask >> l & 1 != 0)
}

/// `new` in the lanes of `mask`, `old` in the others.
pub fn blend<T: Copy>(old: &mut [T; WIDTH], new: &[T; WIDTH], mask: Mask) {
    if mask == FULL {
        *old = *new;
        return;
    }
    for lane in 0..WIDTH {
        if mask >> lane & 1 != 0 {
            old[lane] = new[lane];
        }
    }
}
