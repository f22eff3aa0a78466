//! The clock of the poll path: the CPU's time-stamp counter where it can be trusted, the monotonic
//! clock elsewhere.
//!
//! A counter reading costs some 8 ns on the machine of `docs/overhead.md`; a monotonic one about
//! three times as much. `quanta` reads and calibrates the counter (once a process, 10 to 200 ms)
//! and falls back by itself where the CPU does not promise an invariant counter. Where the kernel
//! has given the counter up as its time source, this clock does not trust it either.

use std::time::Instant;

use crate::model::time::Nanos;

/// A number of ticks of a [`Clock`]: a reading of it, or the time between two readings. Only that
/// clock and its clones know how long a tick is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(pub(crate) u64);

impl Ticks {
    /// Returns the ticks from `earlier` to this reading, zero where they are in the wrong order.
    #[inline(always)]
    pub(crate) fn saturating_sub(self, earlier: Ticks) -> Ticks {
        Ticks(self.0.saturating_sub(earlier.0))
    }

    /// Returns the reading that is this many ticks later.
    #[inline(always)]
    pub(crate) fn saturating_add(self, ticks: Ticks) -> Ticks {
        Ticks(self.0.saturating_add(ticks.0))
    }
}

/// The source of a clock's readings.
#[derive(Clone, Debug)]
enum Source {
    /// The CPU's counter, with the scale from ticks to nanoseconds.
    Counter(quanta::Clock, Scale),
    Monotonic(Instant),
}

/// A source of readings that only go forward. Readings of clones compare.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    source: Source,
    /// The reading at which `nanos` is zero.
    anchor: Ticks,
}

/// The nanoseconds that 2^32 ticks of a source of nanoseconds take.
const NANOS: u64 = 1 << 32;

impl Clock {
    pub(crate) fn new() -> Clock {
        let source = if kernel_distrusts_counter() {
            Source::Monotonic(Instant::now())
        } else {
            let clock = quanta::Clock::new();
            match clock.delta_as_nanos(0, 1 << 32) {
                // Nanoseconds: it has fallen back. On aarch64 it never does, and the counter itself
                // may count them.
                NANOS if !cfg!(target_arch = "aarch64") => Source::Monotonic(Instant::now()),
                nanos => Source::Counter(clock, Scale::of(nanos)),
            }
        };
        let mut clock = Clock { source, anchor: Ticks(0) };
        clock.anchor = clock.now();
        clock
    }

    /// Returns a raw reading, which is never 0.
    #[inline]
    pub(crate) fn now(&self) -> Ticks {
        match &self.source {
            Source::Counter(clock, _) => count(clock),
            Source::Monotonic(anchor) => nanos_since(anchor),
        }
    }

    /// Returns a raw reading where that takes no call; `None` elsewhere.
    #[cfg(tokio_unstable)]
    #[inline(always)]
    pub(crate) fn fast_now(&self) -> Option<Ticks> {
        match &self.source {
            Source::Counter(clock, _) => Some(count(clock)),
            Source::Monotonic(_) => None,
        }
    }

    /// Returns the time from a reading to now where that takes no call; `None` elsewhere.
    #[inline(always)]
    pub(crate) fn fast_since(&self, start: Ticks) -> Option<Nanos> {
        match &self.source {
            Source::Counter(clock, scale) => Some(scale.nanos(count(clock), start)),
            Source::Monotonic(_) => None,
        }
    }

    /// Returns the time between two readings, to within a billionth; zero when they are in the
    /// wrong order.
    #[inline]
    pub(crate) fn delta(&self, start: Ticks, end: Ticks) -> Nanos {
        match &self.source {
            Source::Counter(_, scale) => scale.nanos(end, start),
            Source::Monotonic(_) => Nanos(end.0.saturating_sub(start.0)),
        }
    }

    /// Returns the time from a reading to now, with one branch on the source.
    #[inline]
    pub(crate) fn since(&self, start: Ticks) -> Nanos {
        match &self.source {
            Source::Counter(clock, scale) => scale.nanos(count(clock), start),
            Source::Monotonic(anchor) => Nanos(nanos_since(anchor).0.saturating_sub(start.0)),
        }
    }

    /// Returns a reading as the time since this clock was made.
    pub(crate) fn nanos(&self, reading: Ticks) -> Nanos {
        self.delta(self.anchor, reading)
    }

    /// Returns the name of the source, for `coverage()`.
    pub(crate) fn name(&self) -> &'static str {
        match &self.source {
            Source::Counter(..) => "cpu counter",
            Source::Monotonic(_) => "monotonic",
        }
    }
}

/// Returns the nanoseconds since `anchor`, plus 1. Out of line, because it needs registers that the
/// counter does not.
#[cold]
#[inline(never)]
fn nanos_since(anchor: &Instant) -> Ticks {
    Ticks(anchor.elapsed().as_nanos() as u64 + 1)
}

/// Returns what quanta's `raw` returns where it reads the counter. Its call is not inlined.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn count(_: &quanta::Clock) -> Ticks {
    // SAFETY: every x86_64 processor has the instruction. Where a system forbids it, quanta has
    // tried it before this source was chosen.
    Ticks(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn count(clock: &quanta::Clock) -> Ticks {
    Ticks(clock.raw())
}

/// The nanoseconds of a tick, as `factor / 2^(64 - shift)`: one multiplication a poll, of which
/// only the high half is needed.
#[derive(Clone, Copy, Debug)]
struct Scale {
    factor: u64,
    /// 0 where a tick takes less than a nanosecond.
    shift: u32,
}

impl Scale {
    /// Returns the scale of a source, by the nanoseconds that 2^32 of its ticks take.
    fn of(nanos: u64) -> Scale {
        let shift = 32u32.saturating_sub(nanos.leading_zeros());
        Scale { factor: nanos << (32 - shift), shift }
    }

    #[inline(always)]
    fn nanos(self, end: Ticks, start: Ticks) -> Nanos {
        let ticks = end.0.saturating_sub(start.0);
        Nanos(((u128::from(ticks << self.shift) * u128::from(self.factor)) >> 64) as u64)
    }
}

/// Linux marks a counter as unstable by taking another clock source; one of these says so.
fn kernel_distrusts_counter() -> bool {
    std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .is_ok_and(|source| matches!(source.trim(), "hpet" | "acpi_pm" | "jiffies" | "refined-jiffies"))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn agrees_with_the_monotonic_clock() {
        for clock in [Clock::new(), Clock { source: Source::Monotonic(Instant::now()), anchor: Ticks(0) }] {
            let (outer, start) = (Instant::now(), clock.now());
            let inner = Instant::now();
            std::thread::sleep(Duration::from_millis(20));
            let inner = inner.elapsed().as_nanos() as f64;
            let nanos = clock.delta(start, clock.now()).0 as f64;
            let outer = outer.elapsed().as_nanos() as f64;
            assert!(nanos >= inner * 0.99 && nanos <= outer * 1.01, "{}: {inner} <= {nanos} <= {outer}", clock.name());
            assert_eq!(clock.delta(clock.now(), start), Nanos::ZERO);
            assert!(clock.since(start).0 as f64 >= nanos);
            assert_eq!(clock.since(Ticks(u64::MAX)), Nanos::ZERO);
        }
    }

    #[test]
    fn any_counter_is_scaled_to_within_a_billionth() {
        for hertz in
            [1_000_000, 24_000_000, 999_999_999, 1_000_000_000, 1_000_000_001, 2_596_000_000, 5_700_000_000_u64]
        {
            let scale = Scale::of(((1_000_000_000 << 32) / u128::from(hertz)) as u64);
            for seconds in [0, 1, 60, 86_400, 3_000 * 86_400] {
                let ticks = seconds * hertz;
                let exact = seconds * 1_000_000_000;
                assert!(
                    scale.nanos(Ticks(ticks), Ticks(0)).0.abs_diff(exact) <= 1 + exact / 500_000_000,
                    "{seconds} s at {hertz} Hz"
                );
            }
        }
    }
}
