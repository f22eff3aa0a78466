//! The lag of a runtime: published by the watchdog thread, read by anyone without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};

use crate::measure::runtime::Runtime;
use crate::measure::runtime::meter::Meter;
use crate::model::lag::{LagReading, ScheduleDelay};
use crate::model::time::Nanos;

/// The age at which a value has expired.
const MAX_AGE: Nanos = Nanos(1_000_000_000);

/// The published lag of one runtime. The watchdog thread is its only writer.
#[derive(Debug)]
pub(crate) struct LagCell {
    /// The moment that all published times count from.
    start: Instant,
    holders: AtomicU32,
    /// The latest delay, as [`pack_delay`] has it; 0 for none.
    delay: AtomicU64,
    /// The latest scan and its number of blocked workers, as [`pack_scan`] has them; 0 for none.
    scan: AtomicU64,
}

impl LagCell {
    pub(super) fn new() -> LagCell {
        LagCell { start: Instant::now(), holders: AtomicU32::new(0), delay: AtomicU64::new(0), scan: AtomicU64::new(0) }
    }

    /// Returns whether anyone holds a [`Lag`] of the runtime.
    pub(crate) fn is_held(&self) -> bool {
        self.holders.load(Ordering::Relaxed) > 0
    }

    /// Publishes a measured delay; the watchdog only.
    pub(crate) fn publish_delay(&self, delay: Nanos, is_lower_bound: bool) {
        self.delay.store(pack_delay(self.now(), delay, is_lower_bound), Ordering::Relaxed);
    }

    /// Publishes the number of blocked workers, and that the watchdog is at work; the watchdog only.
    pub(crate) fn publish_scan(&self, blocked_workers: usize) {
        self.scan.store(pack_scan(self.now(), blocked_workers), Ordering::Relaxed);
    }

    /// Withdraws what was published; the watchdog only.
    pub(crate) fn clear(&self) {
        self.scan.store(0, Ordering::Relaxed);
        self.delay.store(0, Ordering::Relaxed);
    }

    /// Returns what was published, with `unanswered` zero; `None` if it has expired.
    fn read(&self) -> Option<LagReading> {
        let now = self.now();
        let is_fresh = |at: Nanos| now.saturating_sub(at) < MAX_AGE;
        let (scanned_at, blocked_workers) = unpack_scan(self.scan.load(Ordering::Relaxed))?;
        if !is_fresh(scanned_at) {
            return None;
        }
        let delay = unpack_delay(self.delay.load(Ordering::Relaxed)).filter(|(at, ..)| is_fresh(*at));
        let schedule_delay = delay.map(|(at, delay, is_lower_bound)| ScheduleDelay {
            delay: delay.to_duration(),
            is_lower_bound,
            measured_at: self.start + at.to_duration(),
        });
        Some(LagReading { schedule_delay, unanswered: Duration::ZERO, blocked_workers })
    }

    fn now(&self) -> Nanos {
        self.start.elapsed().into()
    }
}

/// The bits of a delay, in units of 2 µs, and of a number of blocked workers.
const DELAY_BITS: u32 = 25;
const DELAY_UNIT_BITS: u32 = 11;
const WORKER_BITS: u32 = 20;
/// Times of delays are in units of 8 ms, which last for 73 years; those of scans of 1 ms.
const DELAY_TIME_UNIT_BITS: u32 = 23;
const SCAN_TIME_UNIT_BITS: u32 = 20;

/// Packs a delay: from the top its time, never 0, the delay, and whether it is a lower bound.
fn pack_delay(at: Nanos, delay: Nanos, is_lower_bound: bool) -> u64 {
    let at = (at.0 >> DELAY_TIME_UNIT_BITS) + 1;
    let delay = (delay.0 >> DELAY_UNIT_BITS).min((1 << DELAY_BITS) - 1);
    at << (DELAY_BITS + 1) | delay << 1 | u64::from(is_lower_bound)
}

fn unpack_delay(word: u64) -> Option<(Nanos, Nanos, bool)> {
    let at = (word >> (DELAY_BITS + 1)).checked_sub(1)?;
    let delay = word >> 1 & ((1 << DELAY_BITS) - 1);
    Some((Nanos(at << DELAY_TIME_UNIT_BITS), Nanos(delay << DELAY_UNIT_BITS), word & 1 == 1))
}

/// Packs a scan: from the top its time, never 0, and the number of blocked workers.
fn pack_scan(at: Nanos, blocked_workers: usize) -> u64 {
    let at = (at.0 >> SCAN_TIME_UNIT_BITS) + 1;
    at << WORKER_BITS | (blocked_workers as u64).min((1 << WORKER_BITS) - 1)
}

fn unpack_scan(word: u64) -> Option<(Nanos, usize)> {
    let at = (word >> WORKER_BITS).checked_sub(1)?;
    Some((Nanos(at << SCAN_TIME_UNIT_BITS), (word & ((1 << WORKER_BITS) - 1)) as usize))
}

/// How late the tasks of a runtime are polled now; returned by
/// [`Watchdog::lag`](crate::Watchdog::lag) and by [`LagSource`].
///
/// The watchdog measures the delay from a task's wake to its poll with a probe, a task of its own
/// that waits behind all others. While anyone holds a `Lag` of a runtime, it wakes the probe each
/// 20 ms instead of each 100 ms while the runtime polls, and the probe is polled twice a time: at
/// most 100 polls a second of some 100 ns, with what waking an idle worker takes.
///
/// Clones are cheap, and count as one. A `Lag` does not keep the watchdog running. It stays with the
/// runtime's name: another runtime of that name, built after this one has shut down, continues it.
#[derive(Clone)]
pub struct Lag(Arc<Held>);

/// What all clones of a [`Lag`] share.
struct Held {
    meter: Arc<Meter>,
    runtime: Arc<Runtime>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.runtime.lag.holders.fetch_sub(1, Ordering::Relaxed);
        self.meter.lag_holders.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lag {
    fn new(meter: &Arc<Meter>, runtime: Arc<Runtime>) -> Lag {
        meter.lag_holders.fetch_add(1, Ordering::Relaxed);
        runtime.lag.holders.fetch_add(1, Ordering::Relaxed);
        Lag(Arc::new(Held { meter: meter.clone(), runtime }))
    }

    /// Returns the lag at this moment: three relaxed atomic loads and two readings of the clock, on
    /// any thread, without a lock.
    ///
    /// A reading is made of what the watchdog has published since the latest second. It returns
    /// `None` when that is nothing: for a second after the `Lag` was made at most, when nothing was
    /// polled for a second (an idle runtime has no lag), and when the watchdog has stopped or hangs.
    /// A value that is too old is never returned.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// # let runtime = watchdog.build_runtime("main", builder.enable_all()).unwrap();
    /// let lag = watchdog.lag("main").expect("a runtime of this name");
    /// let delay = lag.read().and_then(|reading| reading.schedule_delay).map_or(Duration::ZERO, |d| d.delay);
    /// if delay > Duration::from_millis(50) {
    ///     // Put off what is not urgent.
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn read(&self) -> Option<LagReading> {
        let Held { meter, runtime } = &*self.0;
        let mut reading = runtime.lag.read()?;
        let sent = runtime.probe.unanswered();
        reading.unanswered = sent.map_or(Duration::ZERO, |sent| {
            let now = meter.clock.now();
            meter.clock.delta(sent, now).to_duration()
        });
        Some(reading)
    }

    /// Returns the name of the runtime.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// # let runtime = watchdog.build_runtime("main", builder.enable_all()).unwrap();
    /// assert_eq!(watchdog.lag("main").unwrap().runtime(), "main");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn runtime(&self) -> &str {
        &self.0.runtime.name
    }

    /// Returns tokio's id of the runtime, while the watchdog watches it.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// # let runtime = watchdog.build_runtime("main", builder.enable_all()).unwrap();
    /// assert_eq!(watchdog.lag("main").unwrap().runtime_id(), Some(runtime.handle().id()));
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn runtime_id(&self) -> Option<Id> {
        self.0.runtime.tokio_id()
    }

    /// Returns the number of the runtime's workers, while the watchdog watches it.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// let runtime = watchdog.build_runtime("main", builder.worker_threads(2)).unwrap();
    /// assert_eq!(watchdog.lag("main").unwrap().workers(), Some(2));
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn workers(&self) -> Option<usize> {
        Some(self.0.runtime.metrics()?.num_workers())
    }
}

impl fmt::Debug for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lag").field("runtime", &self.runtime()).field("reading", &self.read()).finish()
    }
}

/// Where the [`Lag`] of each runtime of a watchdog comes from; returned by
/// [`Watchdog::lag_source`](crate::Watchdog::lag_source). For middleware that is made before its
/// runtime is known. It does not keep the watchdog running, and costs nothing until it returns a
/// `Lag`.
#[derive(Clone)]
pub struct LagSource {
    meter: Arc<Meter>,
}

impl LagSource {
    pub(crate) fn new(meter: &Arc<Meter>) -> LagSource {
        LagSource { meter: meter.clone() }
    }

    /// Returns the lag of the runtime with this name, or `None` if none has ever had it.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let source = watchdog.lag_source();
    /// assert!(source.get("main").is_none(), "no runtime of this name was built");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn get(&self, runtime: &str) -> Option<Lag> {
        let runtime = self.meter.runtimes.all().into_iter().find(|known| &*known.name == runtime)?;
        Some(Lag::new(&self.meter, runtime))
    }

    /// Returns the lag of the runtime that the calling thread is on; `None` outside of a runtime.
    /// A runtime that nobody has named is attached, as [`Watchdog::watch`](crate::Watchdog::watch)
    /// does.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let mut builder = tokio::runtime::Builder::new_multi_thread();
    /// # let runtime = watchdog.build_runtime("main", builder.enable_all()).unwrap();
    /// let source = watchdog.lag_source();
    /// let lag = runtime.block_on(async move { source.current() });
    /// assert_eq!(lag.unwrap().runtime(), "main");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn current(&self) -> Option<Lag> {
        let handle = Handle::try_current().ok()?;
        let runtime = self.meter.runtimes.find_or_attach(&handle, &self.meter)?;
        Some(Lag::new(&self.meter, runtime))
    }

    /// Returns the lags of all runtimes that the watchdog watches now; none when it has stopped.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for lag in watchdog.lag_source().all() {
    ///     println!("{}: {:?}", lag.runtime(), lag.read());
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn all(&self) -> Vec<Lag> {
        let live = self.meter.runtimes.all().into_iter().filter(|runtime| runtime.is_live());
        live.map(|runtime| Lag::new(&self.meter, runtime)).collect()
    }
}

/// Two sources are equal if they are of the same watchdog.
impl PartialEq for LagSource {
    fn eq(&self, other: &LagSource) -> bool {
        Arc::ptr_eq(&self.meter, &other.meter)
    }
}

impl Eq for LagSource {}

impl fmt::Debug for LagSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LagSource").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn words_hold_what_was_packed() {
        let day = 86_400_000 * MS;
        for at in [0, 5 * MS, day, 365 * day * 50] {
            for (delay, kept) in [(0, 0), (3_000, 2_048), (40 * MS, 40 * MS), (u64::MAX, ((1 << 25) - 1) << 11)] {
                let (measured_at, unpacked, is_bound) =
                    unpack_delay(pack_delay(Nanos(at), Nanos(delay), true)).unwrap();
                assert!(at - measured_at.0 < 9 * MS && is_bound, "{at}: {measured_at:?}");
                assert!(kept - unpacked.0 < 2_048, "{delay}: {unpacked:?}");
            }
            let (scanned_at, blocked) = unpack_scan(pack_scan(Nanos(at), 7)).unwrap();
            assert!(at - scanned_at.0 < 2 * MS && blocked == 7);
        }
        assert_eq!((unpack_delay(0), unpack_scan(0)), (None, None));
    }

    #[test]
    fn values_expire() {
        let cell = LagCell::new();
        assert_eq!(cell.read(), None, "nothing is known");
        cell.publish_delay(Nanos(40 * MS), false);
        assert_eq!(cell.read(), None, "of a watchdog that does not scan");
        cell.publish_scan(2);
        let reading = cell.read().unwrap();
        assert_eq!(reading.blocked_workers, 2);
        let delay = reading.schedule_delay.unwrap();
        assert!(delay.delay.abs_diff(Duration::from_millis(40)) < Duration::from_micros(3) && !delay.is_lower_bound);
        assert_eq!(cell.read().unwrap().schedule_delay, Some(delay), "the same measurement is equal");
        let aged = LagCell { start: cell.start - MAX_AGE.to_duration() * 2, ..LagCell::new() };
        aged.delay.store(cell.delay.load(Ordering::Relaxed), Ordering::Relaxed);
        aged.scan.store(cell.scan.load(Ordering::Relaxed), Ordering::Relaxed);
        assert_eq!(aged.read(), None, "of a watchdog that has stopped to scan");
        aged.publish_scan(0);
        assert_eq!(aged.read().unwrap().schedule_delay, None, "that was measured two seconds ago");
        cell.clear();
        assert_eq!(cell.read(), None);
    }

    #[test]
    fn holders_are_counted() {
        let meter = Meter::of(Nanos(10 * MS), 10);
        let runtime = meter.runtimes.reserve("main", &meter).unwrap().unwrap();
        let source = LagSource::new(&meter);
        assert!(source.get("other name").is_none() && source.current().is_none() && source.all().is_empty());
        assert!(source == source.clone() && source != LagSource::new(&Meter::of(Nanos(10 * MS), 10)));
        let lag = source.get("main").unwrap();
        let clone = lag.clone();
        assert!(runtime.lag.is_held() && meter.has_lag_holders());
        drop(lag);
        assert!(runtime.lag.is_held());
        drop(clone);
        assert!(!runtime.lag.is_held() && !meter.has_lag_holders());
    }
}
