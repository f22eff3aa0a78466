//! The clock of the poll path: the CPU's time-stamp counter where it can be trusted, the monotonic
//! clock elsewhere.
//!
//! A counter reading costs some 8 ns on the machine of `docs/overhead.md`; a monotonic one about
//! three times as much. `quanta` calibrates the counter (once a process, 10 to 200 ms) and falls
//! back by itself where the CPU does not promise an invariant counter. Where the kernel has given
//! the counter up as its time source, this clock does not trust it either.
//!
//! A counter that was good at the start may jump later: a virtual machine is restored from a
//! snapshot, a laptop is suspended. So the watchdog thread compares the counter with the monotonic
//! clock at each scan ([`Clock::check`]). After a jump the readings are mapped to moments anew
//! ([`timeline`]). A counter that jumps again and again, or that differs between CPUs, is replaced
//! by the monotonic clock.
//!
//! A poll learns of none of this. It subtracts two readings, and a result of at least the threshold
//! is verified ([`Clock::verified_since`]). The source of readings is one flag in each thread's
//! [`ThreadClock`], which the watchdog thread clears.

mod counter;
#[cfg(all(test, not(pollwatch_loom)))]
mod fault;
mod on_cpus;
mod thread_clock;
mod timeline;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use counter::{Counter, Scale, kernel_distrusts_counter};
pub(crate) use thread_clock::ThreadClock;
pub(crate) use timeline::ClockStep;
use timeline::{ClockPair, MIN_STEP, SharedTimeline, Timeline};

use crate::model::time::Nanos;
use crate::util::lock;

/// A counter that jumps more than this often in [`STEPS_INTERVAL`] is replaced.
const MAX_STEPS: usize = 3;
const STEPS_INTERVAL: Nanos = Nanos::from_secs(60);
/// The interval at which the kernel's opinion of the counter is read.
const KERNEL_INTERVAL: Nanos = Nanos::from_secs(60);
/// The shortest interval between two comparisons of the CPUs. It doubles after each that finds no
/// difference.
const MIN_CPUS_INTERVAL: Nanos = Nanos::from_secs(1);
const MAX_CPUS_INTERVAL: Nanos = Nanos::from_secs(600);
/// The time for the comparison of the CPUs. Those that a thread could not be moved to by then are
/// left out.
const CPUS_TIME: Duration = Duration::from_millis(100);
/// The counters of two CPUs are the same if they differ by no more than this.
const MAX_CPU_DIFFERENCE: Nanos = Nanos::from_micros(200);

/// A number of ticks of a [`Clock`]: a reading of it, or the time between two readings. Only that
/// clock and its clones know how long a tick is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(pub(crate) u64);

/// The bit that readings of the monotonic clock have. A counter reaches it after 48 years at 3 GHz.
/// One that starts there cannot be used.
const MONOTONIC: Ticks = Ticks(1 << 62);

impl Ticks {
    /// The greatest reading.
    const MAX: Ticks = Ticks(u64::MAX);

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

    /// Returns whether two readings are of the same source: both of the counter, or both of the
    /// monotonic clock.
    pub(crate) fn is_of_same_source(self, other: Ticks) -> bool {
        (self < MONOTONIC) == (other < MONOTONIC)
    }

    /// Returns the ticks from `earlier` to this reading. They are zero where they are not known,
    /// because the source has changed in between.
    pub(crate) fn since_same_source(self, earlier: Ticks) -> Ticks {
        if self.is_of_same_source(earlier) { self.saturating_sub(earlier) } else { Ticks(0) }
    }

    /// Returns the moment of a reading of the monotonic clock; `None` for one of the counter.
    fn monotonic(self) -> Option<Nanos> {
        (self >= MONOTONIC).then(|| Nanos(self.saturating_sub(MONOTONIC).0))
    }
}

/// A finding about the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockChange {
    /// The counter has jumped. It is still in use.
    Stepped(ClockStep),
    /// The counters of all CPUs were compared, and are the same.
    CpusAgree,
    /// Times are read from the monotonic clock from now on, for this reason.
    Replaced(&'static str),
}

/// The clock of one watchdog. Readings of clones, and of the threads' clocks, compare.
#[derive(Clone, Debug)]
pub(crate) struct Clock(Arc<ClockState>);

#[derive(Debug)]
struct ClockState {
    /// The moment zero.
    anchor: Instant,
    counter: Counter,
    /// The readings come from the counter.
    is_counter: AtomicBool,
    timeline: SharedTimeline,
    checks: Mutex<Checks>,
    /// The number of jumps of the counter.
    steps: AtomicU64,
    /// A thread visits the CPUs to compare their counters.
    is_visiting_cpus: Arc<AtomicBool>,
    /// A thread has found a duration that the monotonic clock contradicts.
    is_suspect: AtomicBool,
    replaced: OnceLock<Replacement>,
}

/// The replacement of the counter by the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Replacement {
    at: Nanos,
    reason: &'static str,
}

/// The state of the checks, of which the watchdog thread makes one at each scan.
#[derive(Debug)]
struct Checks {
    timeline: Timeline,
    /// The moments of the latest steps.
    steps: [Nanos; MAX_STEPS],
    kernel_asked: Nanos,
    /// The moment of the latest comparison of the CPUs.
    cpus_compared: Option<Nanos>,
    cpus_interval: Nanos,
    /// True if that has found a difference.
    cpus_differed: bool,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        let (counter, is_usable) = Counter::new();
        Clock::of(counter, is_usable)
    }

    fn of(counter: Counter, is_counter: bool) -> Clock {
        let anchor = Instant::now();
        // A counter that is not used is not read either: the system may forbid it.
        let start = ClockPair { ticks: Ticks(0), at: Nanos::ZERO, width: Nanos::ZERO };
        let timeline = Timeline::new(if is_counter { counter.pair(anchor) } else { start });
        Clock(Arc::new(ClockState {
            anchor,
            counter,
            is_counter: AtomicBool::new(is_counter),
            timeline: SharedTimeline::new(&timeline),
            checks: Mutex::new(Checks {
                timeline,
                steps: [Nanos::ZERO; MAX_STEPS],
                kernel_asked: Nanos::ZERO,
                cpus_compared: None,
                cpus_interval: MIN_CPUS_INTERVAL,
                cpus_differed: false,
            }),
            steps: AtomicU64::new(0),
            is_visiting_cpus: Arc::default(),
            is_suspect: AtomicBool::new(false),
            replaced: OnceLock::new(),
        }))
    }

    /// Returns a raw reading, which is never 0.
    pub(crate) fn now(&self) -> Ticks {
        if self.is_counter() { self.0.counter.read() } else { nanos_since(&self.0.anchor) }
    }

    /// Returns the ticks that a time takes, as this clock counts them now.
    #[cfg(tokio_unstable)]
    pub(crate) fn ticks(&self, time: Nanos) -> Ticks {
        if self.is_counter() { self.0.counter.scale.ticks(time) } else { Ticks(time.0) }
    }

    /// Returns this moment by the monotonic clock. It never jumps.
    pub(crate) fn moment(&self) -> Nanos {
        self.0.anchor.elapsed().into()
    }

    /// Returns the moment of a reading, as far as it is known: a reading from before a jump of the
    /// counter may get a later moment.
    pub(crate) fn nanos(&self, reading: Ticks) -> Nanos {
        if let Some(moment) = reading.monotonic() {
            return moment;
        }
        if !self.is_counter() {
            return self.0.replaced.get().map_or(Nanos::ZERO, |replaced| replaced.at);
        }
        match self.0.timeline.read() {
            Some(timeline) => timeline.moment_of(reading, self.0.counter.read(), self.0.counter.scale),
            None => self.moment(),
        }
    }

    /// Returns the time since a reading. It is right also where the counter has jumped, but may be
    /// too short then.
    pub(crate) fn elapsed_since(&self, start: Ticks) -> Nanos {
        let end = self.now();
        let is_comparable = start.is_of_same_source(end);
        let scale = if end < MONOTONIC { self.0.counter.scale } else { Scale::NANOS };
        let elapsed = scale.nanos(end, start);
        if is_comparable && elapsed < MIN_STEP { elapsed } else { self.verified_since(start, elapsed) }
    }

    /// Returns `elapsed`, the time since a reading, if the monotonic clock confirms it. Otherwise
    /// returns the time that the monotonic clock says.
    #[cold]
    #[inline(never)]
    pub(crate) fn verified_since(&self, start: Ticks, elapsed: Nanos) -> Nanos {
        if start >= MONOTONIC {
            return elapsed;
        }
        let by_moments = || self.moment().saturating_sub(self.nanos(start));
        if !self.is_counter() {
            return by_moments();
        }
        match self.0.timeline.read() {
            Some(timeline) if timeline.is_current(start) && self.confirms(&timeline) => elapsed,
            Some(_) => {
                // The watchdog thread may run on a CPU whose counter is right.
                self.suspect();
                by_moments()
            }
            None => by_moments().min(elapsed),
        }
    }

    /// Returns whether the counter has not jumped since the latest check, as far as this CPU shows.
    /// Otherwise no moment of a reading is known until the next check.
    pub(crate) fn is_consistent(&self) -> bool {
        let is_consistent =
            !self.is_counter() || self.0.timeline.read().is_some_and(|timeline| self.confirms(&timeline));
        if !is_consistent {
            self.suspect();
        }
        is_consistent
    }

    fn confirms(&self, timeline: &Timeline) -> bool {
        timeline.step(self.0.counter.pair(self.0.anchor), self.0.counter.scale).is_none()
    }

    fn is_counter(&self) -> bool {
        self.0.is_counter.load(Ordering::Acquire)
    }

    /// Returns the name of the source, for `coverage()`.
    pub(crate) fn name(&self) -> &'static str {
        if self.is_counter() { "cpu counter" } else { "monotonic" }
    }

    /// Returns the number of jumps of the counter that were noticed.
    pub(crate) fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }

    /// Returns why the counter was replaced by the monotonic clock, if it was.
    pub(crate) fn replaced(&self) -> Option<&'static str> {
        self.0.replaced.get().map(|replaced| replaced.reason)
    }

    /// Records that the readings of some poll contradict each other.
    pub(crate) fn suspect(&self) {
        self.0.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Compares the counter with the monotonic clock; the watchdog thread, at each scan. The caller
    /// stops the counters of all threads when this returns that it was replaced.
    pub(crate) fn check(&self) -> Option<ClockChange> {
        if !self.is_counter() {
            return None;
        }
        let mut checks = lock(&self.0.checks);
        let (now, is_suspect) = (self.moment(), self.0.is_suspect.load(Ordering::Relaxed));
        let pair = self.0.counter.pair(self.0.anchor);
        if pair.ticks >= MONOTONIC {
            return Some(self.replace("its readings are out of range"));
        }
        let step = checks.timeline.update(pair, self.0.counter.scale);
        self.0.timeline.publish(&checks.timeline);
        if step.is_some() || now.saturating_sub(checks.kernel_asked) >= KERNEL_INTERVAL {
            checks.kernel_asked = now;
            if kernel_distrusts_counter() {
                return Some(self.replace("the kernel does not trust it any more"));
            }
        }
        if let Some(step) = step {
            self.0.steps.fetch_add(1, Ordering::Relaxed);
            let oldest = checks.steps[0];
            checks.steps.rotate_left(1);
            checks.steps[MAX_STEPS - 1] = now;
            if oldest > Nanos::ZERO && now.saturating_sub(oldest) < STEPS_INTERVAL {
                return Some(self.replace("it jumps again and again"));
            }
            return Some(ClockChange::Stepped(step));
        }
        let is_due = |at: Nanos| now.saturating_sub(at) >= checks.cpus_interval;
        if is_suspect && checks.cpus_compared.is_none_or(is_due) {
            self.0.is_suspect.store(false, Ordering::Relaxed);
            return self.compare_cpus(&mut checks);
        }
        None
    }

    /// Compares the counters of all CPUs. A jump during a comparison looks like a difference, so
    /// that two comparisons have to find one.
    fn compare_cpus(&self, checks: &mut Checks) -> Option<ClockChange> {
        loop {
            match self.difference_of_cpus(&checks.timeline) {
                Some(true) if checks.cpus_differed => return Some(self.replace("it differs between CPUs")),
                Some(true) => checks.cpus_differed = true,
                Some(false) => {
                    checks.cpus_differed = false;
                    checks.cpus_compared = Some(self.moment());
                    checks.cpus_interval = (2 * checks.cpus_interval).min(MAX_CPUS_INTERVAL);
                    return Some(ClockChange::CpusAgree);
                }
                None => {
                    // Some CPU was not visited in time. It is tried again.
                    checks.cpus_compared = Some(self.moment());
                    self.suspect();
                    return None;
                }
            }
        }
    }

    /// Returns whether the counters of two CPUs differ, of those that this thread may use. `None`
    /// if a thread could not be moved to all of them in time, and the others do not differ: a CPU
    /// may be held by a thread of a real-time priority.
    fn difference_of_cpus(&self, timeline: &Timeline) -> Option<bool> {
        let (mut least, mut most, mut tolerance) = (i128::MAX, i128::MIN, MAX_CPU_DIFFERENCE);
        let start = self.moment();
        let read = {
            let clock = self.clone();
            move || clock.0.counter.pair(clock.0.anchor)
        };
        let visit = on_cpus::collect(&self.0.is_visiting_cpus, CPUS_TIME, read);
        for pair in visit.found {
            let lead = timeline.lead(pair, self.0.counter.scale).signed();
            (least, most) = (least.min(lead), most.max(lead));
            tolerance += pair.width;
        }
        // Drift is no difference between CPUs, and busy CPUs take long to visit.
        tolerance += self.moment().saturating_sub(start) / 8;
        let do_differ = most.saturating_sub(least) > i128::from(tolerance.0);
        (do_differ || visit.is_complete).then_some(do_differ)
    }

    fn replace(&self, reason: &'static str) -> ClockChange {
        let _ = self.0.replaced.set(Replacement { at: self.moment(), reason });
        self.0.is_counter.store(false, Ordering::Release);
        ClockChange::Replaced(reason)
    }
}

/// Returns a reading of the monotonic clock: the nanoseconds since `anchor`, with the bit of such
/// readings. Out of line, because it needs registers that the counter does not.
#[cold]
#[inline(never)]
fn nanos_since(anchor: &Instant) -> Ticks {
    Ticks(MONOTONIC.0 | anchor.elapsed().as_nanos() as u64)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
