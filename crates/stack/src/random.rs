//! Random input for tests, from a seed that a failure prints. The fuzz tests of this crate and
//! those of pollwatch (`tests/it`) share this file.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// A pseudorandom number generator ([xorshift64*]). The same seed gives the same numbers on every
/// machine.
///
/// [xorshift64*]: https://en.wikipedia.org/wiki/Xorshift#xorshift*
pub(crate) struct Random(Cell<u64>);

impl Random {
    fn new(seed: u64) -> Random {
        // Spreads neighbouring seeds; none becomes 0.
        Random(Cell::new(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1))
    }

    /// Returns a number of 64 random bits.
    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns a number from 0 to `n` - 1.
    pub(crate) fn below(&self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Returns true once in `n` times.
    pub(crate) fn once_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Returns one of the elements.
    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Returns a size of at most `max`, small ones as often as large ones.
    pub(crate) fn size(&self, max: usize) -> usize {
        let bits = self.below(max.ilog2() as usize + 2);
        self.below(1 << bits).min(max)
    }

    /// Returns `len` random bytes.
    pub(crate) fn bytes(&self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Calls `round` with one seed after the other.
///
/// It runs for 2 s, or for `POLLWATCH_FUZZ_SECONDS`, and starts with seed 1, or with
/// `POLLWATCH_FUZZ_SEED`.
pub(crate) fn rounds(name: &str, mut round: impl FnMut(&Random)) {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a whole number"));
    let (first, time) = (setting("POLLWATCH_FUZZ_SEED").unwrap_or(1), setting("POLLWATCH_FUZZ_SECONDS").unwrap_or(2));
    let (start, mut seed) = (Instant::now(), first);
    while seed == first || start.elapsed() < Duration::from_secs(time) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| round(&Random::new(seed)))) {
            eprintln!("{name}: POLLWATCH_FUZZ_SEED={seed} POLLWATCH_FUZZ_SECONDS=0 repeats it");
            resume_unwind(payload);
        }
        seed += 1;
    }
    println!("{name}: {} rounds in {:.1} s", seed - first, start.elapsed().as_secs_f64());
}
