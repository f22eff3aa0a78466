//! The CPU's counter: its readings, its scale, and whether the kernel trusts it.

use std::time::Instant;

use super::timeline::ClockPair;
use super::{MONOTONIC, Ticks};
use crate::model::time::Nanos;

/// The nanoseconds that 2^32 ticks of a source of nanoseconds take.
const NANOS: u64 = 1 << 32;
/// The number of attempts to read both clocks without an interruption.
const PAIR_ATTEMPTS: usize = 4;
/// A pair that was read in this time is good enough.
const GOOD_WIDTH: Nanos = Nanos::from_micros(2);

/// The CPU's counter.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    #[cfg(not(target_arch = "x86_64"))]
    clock: quanta::Clock,
    pub(super) scale: Scale,
    /// The faults that a test has injected.
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(super) fault: std::sync::Arc<super::fault::Fault>,
}

impl Counter {
    /// Returns the counter; its second part is false where it cannot be used.
    pub(super) fn new() -> (Counter, bool) {
        let clock = quanta::Clock::new();
        let nanos = clock.delta_as_nanos(0, 1 << 32);
        // A source of nanoseconds: quanta has fallen back. On aarch64 it never does, and the
        // counter itself may count them.
        let is_counter = nanos != NANOS || cfg!(target_arch = "aarch64");
        let counter = Counter {
            #[cfg(not(target_arch = "x86_64"))]
            clock,
            scale: Scale::of(nanos),
            #[cfg(all(test, not(pollwatch_loom)))]
            fault: Default::default(),
        };
        let is_usable = is_counter && !kernel_distrusts_counter() && counter.read() < MONOTONIC;
        (counter, is_usable)
    }

    /// Returns what quanta's `raw` returns where it reads the counter. Its call is not inlined.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn read(&self) -> Ticks {
        // SAFETY: every x86_64 processor has the instruction. Where a system forbids it, quanta has
        // tried it before this source was chosen.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        #[cfg(all(test, not(pollwatch_loom)))]
        let ticks = self.fault.apply(ticks);
        Ticks(ticks)
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(super) fn read(&self) -> Ticks {
        let ticks = self.clock.raw();
        #[cfg(all(test, not(pollwatch_loom)))]
        let ticks = self.fault.apply(ticks);
        Ticks(ticks)
    }

    /// Reads the counter and the time since `anchor` at one moment.
    pub(super) fn pair(&self, anchor: Instant) -> ClockPair {
        let read = || {
            let before = Nanos::from(anchor.elapsed());
            let ticks = self.read();
            let width = Nanos::from(anchor.elapsed()).saturating_sub(before);
            ClockPair { ticks, at: before + width / 2, width }
        };
        let mut best = read();
        for _ in 1..PAIR_ATTEMPTS {
            if best.width <= GOOD_WIDTH {
                break;
            }
            let next = read();
            if next.width < best.width {
                best = next;
            }
        }
        best
    }
}

/// Linux marks a counter as unstable by taking another clock source; one of these says so.
pub(super) fn kernel_distrusts_counter() -> bool {
    std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .is_ok_and(|source| matches!(source.trim(), "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies"))
}

/// The nanoseconds of a tick, as `factor / 2^(64 - shift)`: one multiplication a poll, of which
/// only the high half is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    factor: u64,
    /// 0 where a tick takes less than a nanosecond.
    shift: u32,
}

impl Scale {
    /// The scale of the monotonic clock.
    pub(super) const NANOS: Scale = Scale { factor: 1 << 63, shift: 1 };

    /// Returns the scale of a source, by the nanoseconds that 2^32 of its ticks take.
    pub(super) fn of(nanos: u64) -> Scale {
        let shift = 32u32.saturating_sub(nanos.leading_zeros());
        Scale { factor: nanos << (32 - shift), shift }
    }

    #[inline(always)]
    pub(super) fn nanos(self, end: Ticks, start: Ticks) -> Nanos {
        let ticks = end.0.saturating_sub(start.0);
        Nanos(((u128::from(ticks << self.shift) * u128::from(self.factor)) >> 64) as u64)
    }

    /// Returns the ticks of a time.
    pub(super) fn ticks(self, time: Nanos) -> Ticks {
        let ticks = (u128::from(time.0) << (64 - self.shift)) / u128::from(self.factor.max(1));
        Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
    }
}
