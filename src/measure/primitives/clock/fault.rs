//! Faults of the counter that tests inject.

use std::sync::atomic::{AtomicI64, Ordering};

use super::Clock;

impl Clock {
    /// Returns the faults of the counter.
    pub(crate) fn fault(&self) -> &Fault {
        &self.0.counter.fault
    }

    /// Replaces the counter, without the threads of any meter.
    pub(crate) fn give_up_counter(&self) {
        self.replace("by a test");
    }
}

/// The faults of one counter, in ticks.
#[derive(Debug, Default)]
pub(crate) struct Fault {
    offset: AtomicI64,
    /// The offset on each CPU with an odd number.
    odd_cpus: AtomicI64,
}

impl Fault {
    /// Has the counter jump by so many ticks from now on.
    pub(crate) fn jump(&self, ticks: i64) {
        self.offset.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Has the counters of the CPUs with an odd number differ by so many ticks from now on.
    pub(crate) fn offset_odd_cpus(&self, ticks: i64) {
        self.odd_cpus.store(ticks, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn apply(&self, ticks: u64) -> u64 {
        let mut offset = self.offset.load(Ordering::Relaxed);
        let odd_cpus = self.odd_cpus.load(Ordering::Relaxed);
        if odd_cpus != 0 && crate::sys::current_cpu().is_some_and(|cpu| cpu % 2 == 1) {
            offset += odd_cpus;
        }
        ticks.wrapping_add_signed(offset)
    }
}
