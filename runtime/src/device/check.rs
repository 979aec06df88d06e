//! Looks at what every launch reads and writes, for a step that is made again because its loss or gradient was
//! not finite: which launch was the first to make such a number of finite ones.

use neoxc_plan::Kernel;

/// The first launch of a rank that wrote a number that is not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How many launches the rank had made before it.
    pub after: u64,
    /// Number of the program in the plan, and line in its text, from 1.
    pub place: (usize, usize),
    /// Iterations of the loops around it, from the outside; from `MAX_DEPTH` on the next ones.
    pub index: Vec<usize>,
    /// The argument that has the number.
    pub result: usize,
    /// An operand that had one before: it came out of a collective.
    pub read: Option<usize>,
}

/// Looks until the first one is found.
#[derive(Debug)]
pub struct Check {
    kernels: Vec<Kernel>,
    launches: u64,
    read: Option<usize>,
    found: Option<Found>,
}

/// Whether all numbers are finite; those that are no floats are.
fn is_finite(dtype: &str, bytes: &[u8]) -> bool {
    match dtype {
        "f32" => {
            let bits = |c: &[u8]| u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
            bytes.chunks_exact(4).all(|c| f32::from_bits(bits(c)).is_finite())
        }
        // The upper half of an f32.
        "bf16" => bytes
            .chunks_exact(2)
            .all(|c| f32::from_bits(u32::from(u16::from_le_bytes([c[0], c[1]])) << 16).is_finite()),
        // All bits of the exponent are set in infinities and NaNs.
        "f16" => bytes.chunks_exact(2).all(|c| u16::from_le_bytes([c[0], c[1]]) & 0x7c00 != 0x7c00),
        _ => true,
    }
}

impl Check {
    /// For launches of these kernels.
    pub fn new(kernels: Vec<Kernel>) -> Check {
        Check { kernels, launches: 0, read: None, found: None }
    }

    /// What was found so far.
    pub fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    /// The first of these arguments that is not finite.
    ///
    /// # Safety
    /// `args` must be those of a launch of the kernel, which nobody writes to meanwhile.
    unsafe fn first(
        &self,
        kernel: usize,
        args: &[*mut u8],
        of: std::ops::Range<usize>,
    ) -> Option<usize> {
        let k = &self.kernels[kernel];
        of.into_iter().find(|n| {
            let (Some(dtype), Some(size)) = (k.dtypes.get(*n), k.args.get(*n)) else {
                return false;
            };
            // SAFETY: a validated plan keeps every argument inside its segment; the caller's promise.
            let bytes = unsafe { std::slice::from_raw_parts(args[*n], *size as usize) };
            !is_finite(dtype, bytes)
        })
    }

    /// Looks at what a launch is about to read.
    ///
    /// # Safety
    /// `args` must be those of a launch of the kernel, which nobody writes to meanwhile.
    pub unsafe fn before(&mut self, kernel: usize, args: &[*mut u8]) {
        if self.found.is_none() {
            let operands = 0..self.kernels[kernel].operands;
            // SAFETY: the caller's promise.
            self.read = unsafe { self.first(kernel, args, operands) };
        }
    }

    /// Looks at what a launch has written.
    ///
    /// # Safety
    /// `args` must be those of a launch of the kernel, which nobody writes to meanwhile.
    pub unsafe fn after(
        &mut self,
        kernel: usize,
        args: &[*mut u8],
        place: (usize, usize),
        index: &[usize],
    ) {
        if self.found.is_none() {
            let k = &self.kernels[kernel];
            let results = k.operands..k.args.len();
            // SAFETY: the caller's promise.
            let result = unsafe { self.first(kernel, args, results) };
            let (after, read) = (self.launches, self.read);
            let found = |result| Found { after, place, index: index.to_vec(), result, read };
            self.found = result.map(found);
        }
        self.launches += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_and_f32_are_told_from_integers() {
        let bytes = f32::NAN.to_le_bytes();
        assert!(!is_finite("f32", &bytes) && is_finite("i32", &bytes));
        assert!(!is_finite("bf16", &bytes[2..]) && is_finite("bf16", &[0xff, 0x7e, 0, 0xc0]));
        // The largest, then infinity and a NaN.
        assert!(is_finite("f16", &[0xff, 0x7b, 0xff, 0xfb]));
        assert!(!is_finite("f16", &[0, 0x7c]) && !is_finite("f16", &[1, 0xfe]));
        assert!(is_finite("f32", &f32::MAX.to_le_bytes()) && is_finite("f32", &[]));
    }

    #[test]
    fn the_first_launch_counts_and_whether_it_was_fed() {
        let kernel = Kernel {
            args: vec![4, 4],
            dtypes: vec!["f32".into(), "f32".into()],
            operands: 1,
            ..Kernel::default()
        };
        let launch = |check: &mut Check, mut from: f32, mut to: f32| {
            let args: [*mut u8; 2] = [(&raw mut from).cast::<u8>(), (&raw mut to).cast::<u8>()];
            // SAFETY: two floats of this function.
            unsafe {
                check.before(0, &args);
                check.after(0, &args, (0, 7), &[3]);
            }
        };
        for (from, read) in [(1.0, None), (f32::NAN, Some(0))] {
            let mut check = Check::new(vec![kernel.clone()]);
            launch(&mut check, 1.0, 2.0);
            assert_eq!(check.found(), None);
            launch(&mut check, from, f32::INFINITY);
            launch(&mut check, 1.0, f32::INFINITY);
            let want = Found { after: 1, place: (0, 7), index: vec![3], result: 1, read };
            assert_eq!(check.found(), Some(&want));
        }
    }
}
