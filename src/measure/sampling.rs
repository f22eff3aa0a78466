//! Which polls are timed, where not all are ([`sampled_timing`](crate::WatchdogBuilder::sampled_timing)).

use std::cell::Cell;

/// One poll in so many is timed, on average.
pub(crate) const EVERY: u64 = 16;

/// A thread's choice. The gaps between timed polls are random: tasks that take turns are all met.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// Polls until the next one that is timed; stays 0 where all are.
    left: Cell<u32>,
    /// Of a xorshift generator; 0 where all are timed.
    random: Cell<u64>,
}

impl Sampling {
    pub(crate) fn new(on: bool) -> Sampling {
        let sampling = Sampling { left: Cell::new(0), random: Cell::new(0) };
        if on {
            // Another one on each thread.
            let here = std::ptr::from_ref(&sampling) as u64;
            sampling.random.set(here.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            sampling.draw();
        }
        sampling
    }

    /// Whether the poll that begins is timed. Once it is, so is every further one, until [`weight`](Self::weight) is asked for.
    #[inline(always)]
    pub(crate) fn is_due(&self) -> bool {
        let (left, is_due) = self.left.get().overflowing_sub(1);
        self.left.set(left);
        if is_due {
            self.left.set(0);
        }
        is_due
    }

    /// How many polls the time of one that was timed stands for, and when the next is, after that.
    pub(crate) fn weight(&self) -> u64 {
        if self.random.get() == 0 {
            return 1;
        }
        self.draw();
        EVERY
    }

    /// As [`weight`](Self::weight), of a part of a timed poll, whose end chooses the next.
    #[cfg(feature = "tower")]
    #[inline]
    pub(crate) fn weight_of_part(&self) -> u64 {
        if self.random.get() == 0 { 1 } else { EVERY }
    }

    /// Gaps of 0 to 30, each as likely: 15 untimed ones on average.
    fn draw(&self) {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        self.left.set((((x >> 32) * (2 * EVERY - 1)) >> 32) as u32);
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_in_sixteen_is_timed_whatever_the_order() {
        const POLLS: u64 = 1_600_000;
        const TASKS: usize = 16;
        let sampling = Sampling::new(true);
        let mut timed = [0_u64; TASKS];
        for poll in 0..POLLS as usize {
            if sampling.is_due() {
                assert_eq!(sampling.weight(), EVERY);
                timed[poll % TASKS] += 1;
            }
        }
        let all: u64 = timed.iter().sum();
        // The standard deviation is some 180, and 75 for each of the tasks.
        assert!(all.abs_diff(POLLS / EVERY) < 2_000, "{all}");
        assert!(timed.iter().all(|n| n.abs_diff(all / TASKS as u64) < 800), "{timed:?}");
    }

    #[test]
    fn all_are_timed_where_nothing_is_sampled() {
        let sampling = Sampling::new(false);
        assert!((0..1_000).all(|_| sampling.is_due() && sampling.weight() == 1));
    }
}
