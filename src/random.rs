//! Made-up input for tests: from a seed, which a failure prints. The unit tests and those of `tests/it` share this file.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// xorshift64*: the same numbers from the same seed, everywhere.
pub(crate) struct Random(Cell<u64>);

impl Random {
    fn new(seed: u64) -> Random {
        // Seeds next to each other are nothing alike, and none is 0.
        Random(Cell::new(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 to `n` - 1.
    pub(crate) fn below(&self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Once in `n` times.
    pub(crate) fn once_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// As many small ones as large ones, up to `max`.
    pub(crate) fn size(&self, max: usize) -> usize {
        let bits = self.below(max.ilog2() as usize + 2);
        self.below(1 << bits).min(max)
    }

    pub(crate) fn bytes(&self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Runs `round` with one seed after the other for 2 s, or for `POLLWATCH_FUZZ_SECONDS`, from `POLLWATCH_FUZZ_SEED` on (1).
pub(crate) fn rounds(what: &str, mut round: impl FnMut(&Random)) {
    let told = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a whole number"));
    let (first, time) = (told("POLLWATCH_FUZZ_SEED").unwrap_or(1), told("POLLWATCH_FUZZ_SECONDS").unwrap_or(2));
    let (begin, mut seed) = (Instant::now(), first);
    while seed == first || begin.elapsed() < Duration::from_secs(time) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| round(&Random::new(seed)))) {
            eprintln!("{what}: POLLWATCH_FUZZ_SEED={seed} POLLWATCH_FUZZ_SECONDS=0 repeats it");
            resume_unwind(payload);
        }
        seed += 1;
    }
    println!("{what}: {} rounds in {:.1} s", seed - first, begin.elapsed().as_secs_f64());
}
