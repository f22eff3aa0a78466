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

/// The age at which a published value expires.
const MAX_AGE: Nanos = Nanos::from_secs(1);

/// The published lag of one runtime. The watchdog thread is its only writer.
#[derive(Debug)]
pub(crate) struct LagCell {
    /// The moment from which all published times are counted.
    start: Instant,
    /// The number of [`Lag`]s of the runtime; clones count as one.
    holders: AtomicU32,
    /// The latest delay, packed by [`pack_delay`]; 0 for none.
    delay: AtomicU64,
    /// The time and the number of blocked workers of the latest scan, packed by [`pack_scan`]; 0
    /// for none.
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

    /// Publishes the number of blocked workers, with the time of the scan that found them; the
    /// watchdog only.
    pub(crate) fn publish_scan(&self, blocked_workers: usize) {
        self.scan.store(pack_scan(self.now(), blocked_workers), Ordering::Relaxed);
    }

    /// Withdraws the published values; the watchdog only.
    pub(crate) fn clear(&self) {
        self.scan.store(0, Ordering::Relaxed);
        self.delay.store(0, Ordering::Relaxed);
    }

    /// Returns the published values, with `unanswered` zero; `None` if no scan was published within
    /// [`MAX_AGE`]. An older delay is left out.
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

/// The number of bits of a delay, which is in units of 2 µs, and of a number of blocked workers.
const DELAY_BITS: u32 = 25;
const DELAY_UNIT_BITS: u32 = 11;
const WORKER_BITS: u32 = 20;
/// The time of a delay is in units of 8 ms, and that of a scan in units of 1 ms. The bits that are
/// left for them last for 73 years and longer.
const DELAY_TIME_UNIT_BITS: u32 = 23;
const SCAN_TIME_UNIT_BITS: u32 = 20;

/// Packs a delay. From the top, the bits are its time (never 0), the delay, and a flag for a lower
/// bound. A delay that does not fit is the longest one that does, 69 s.
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

/// Packs a scan. From the top, the bits are its time (never 0) and the number of blocked workers.
fn pack_scan(at: Nanos, blocked_workers: usize) -> u64 {
    let at = (at.0 >> SCAN_TIME_UNIT_BITS) + 1;
    at << WORKER_BITS | (blocked_workers as u64).min((1 << WORKER_BITS) - 1)
}

fn unpack_scan(word: u64) -> Option<(Nanos, usize)> {
    let at = (word >> WORKER_BITS).checked_sub(1)?;
    Some((Nanos(at << SCAN_TIME_UNIT_BITS), (word & ((1 << WORKER_BITS) - 1)) as usize))
}

/// A handle to the lag of a runtime, which is how late its tasks are polled now; returned by
/// [`Watchdog::lag`](crate::Watchdog::lag) and by [`LagSource`].
///
/// The watchdog measures the delay from a task's wake to its poll with a probe, a task of its own
/// that waits behind all others. It wakes the probe each 100 ms while the runtime polls. While
/// anyone holds a `Lag` of the runtime, it does so each 20 ms, and the probe is polled twice for
/// each wake. The cost is at most 100 polls a second of some 100 ns, and the wakes of idle workers.
///
/// A clone costs one reference count. A `Lag` does not keep the watchdog running. It belongs to the
/// name of the runtime, and also returns the lag of the next runtime that has the name after this
/// one has shut down.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let runtime = watchdog.runtime("main").build()?;
/// let lag = watchdog.lag("main").expect("a runtime of this name");
/// let is_blocked = lag.read().is_some_and(|reading| reading.blocked_workers > 0);
/// # drop(runtime);
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone)]
pub struct Lag(Arc<LagHolder>);

/// The part of a [`Lag`] that all its clones share.
struct LagHolder {
    meter: Arc<Meter>,
    runtime: Arc<Runtime>,
}

impl Drop for LagHolder {
    fn drop(&mut self) {
        self.runtime.lag.holders.fetch_sub(1, Ordering::Relaxed);
        self.meter.lag_holders.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lag {
    fn new(meter: &Arc<Meter>, runtime: Arc<Runtime>) -> Lag {
        meter.lag_holders.fetch_add(1, Ordering::Relaxed);
        runtime.lag.holders.fetch_add(1, Ordering::Relaxed);
        Lag(Arc::new(LagHolder { meter: meter.clone(), runtime }))
    }

    /// Returns the lag at this moment: three relaxed atomic loads and two readings of the clock, on
    /// any thread, without a lock.
    ///
    /// A reading consists of the values that the watchdog has published within the last second. It
    /// is `None` where there are none:
    ///
    /// - for at most a second after the `Lag` was made;
    /// - when nothing was polled for a second, because an idle runtime has no lag;
    /// - when the watchdog has stopped or hangs.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let runtime = watchdog.runtime("main").enable_all().build().unwrap();
    /// let lag = watchdog.lag("main").expect("a runtime of this name");
    /// let delay = lag.read().and_then(|reading| reading.schedule_delay);
    /// if delay.is_some_and(|measured| measured.delay > Duration::from_millis(50)) {
    ///     // Put off what is not urgent.
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn read(&self) -> Option<LagReading> {
        let LagHolder { meter, runtime } = &*self.0;
        let mut reading = runtime.lag.read()?;
        let sent = runtime.probe.unanswered();
        reading.unanswered = sent.map_or(Duration::ZERO, |sent| meter.clock.elapsed_since(sent).to_duration());
        Some(reading)
    }

    /// Returns the name of the runtime.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let runtime = watchdog.runtime("main").enable_all().build().unwrap();
    /// assert_eq!(watchdog.lag("main").unwrap().runtime(), "main");
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn runtime(&self) -> &str {
        &self.0.runtime.name
    }

    /// Returns tokio's id of the runtime; `None` when the watchdog does not watch it any more.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let runtime = watchdog.runtime("main").enable_all().build().unwrap();
    /// assert_eq!(watchdog.lag("main").unwrap().runtime_id(), Some(runtime.handle().id()));
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn runtime_id(&self) -> Option<Id> {
        self.0.runtime.tokio_id()
    }

    /// Returns the number of the runtime's workers; `None` when the watchdog does not watch it any
    /// more.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// let runtime = watchdog.runtime("main").worker_threads(2).build().unwrap();
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

/// A source of the [`Lag`] of each runtime of a watchdog; returned by
/// [`Watchdog::lag_source`](crate::Watchdog::lag_source). Middleware that is made before its
/// runtime is known holds one. It does not keep the watchdog running, and costs nothing until it
/// returns a `Lag`.
///
/// ```
/// # let watchdog = pollwatch::Watchdog::builder().start()?;
/// let source = watchdog.lag_source();
/// assert!(source.get("main").is_none(), "no runtime has this name");
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[derive(Clone)]
pub struct LagSource {
    meter: Arc<Meter>,
}

impl LagSource {
    pub(crate) fn new(meter: &Arc<Meter>) -> LagSource {
        LagSource { meter: meter.clone() }
    }

    /// Returns the lag of the runtime with this name; `None` if no runtime has ever had it.
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
    /// A runtime that is not watched yet is attached, as by
    /// [`Watchdog::watch`](crate::Watchdog::watch); `None` if the watchdog has stopped before.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// # let runtime = watchdog.runtime("main").enable_all().build().unwrap();
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

    /// Returns the lags of all runtimes that the watchdog watches now. After it has stopped, there
    /// are none.
    ///
    /// ```
    /// # let watchdog = pollwatch::Watchdog::builder().start()?;
    /// for lag in watchdog.lag_source().all() {
    ///     println!("{}: {:?}", lag.runtime(), lag.read());
    /// }
    /// # Ok::<(), pollwatch::Error>(())
    /// ```
    pub fn all(&self) -> Vec<Lag> {
        if self.meter.runtimes.is_stopped() {
            return Vec::new();
        }
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
    fn unpacking_returns_the_packed_values() {
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
        assert_eq!(cell.read(), None, "nothing was published");
        cell.publish_delay(Nanos(40 * MS), false);
        assert_eq!(cell.read(), None, "no scan was published");
        cell.publish_scan(2);
        let reading = cell.read().unwrap();
        assert_eq!(reading.blocked_workers, 2);
        let delay = reading.schedule_delay.unwrap();
        assert!(delay.delay.abs_diff(Duration::from_millis(40)) < Duration::from_micros(3) && !delay.is_lower_bound);
        assert_eq!(cell.read().unwrap().schedule_delay, Some(delay), "the same measurement is equal");
        let aged = LagCell { start: cell.start - MAX_AGE.to_duration() * 2, ..LagCell::new() };
        aged.delay.store(cell.delay.load(Ordering::Relaxed), Ordering::Relaxed);
        aged.scan.store(cell.scan.load(Ordering::Relaxed), Ordering::Relaxed);
        assert_eq!(aged.read(), None, "the watchdog does not scan any more");
        aged.publish_scan(0);
        assert_eq!(aged.read().unwrap().schedule_delay, None, "it was measured two seconds ago");
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

    #[test]
    fn a_stopped_watchdog_attaches_no_runtime() {
        let meter = Meter::of(Nanos(10 * MS), 10);
        let source = LagSource::new(&meter);
        let [before, after] = [(); 2].map(|()| tokio::runtime::Builder::new_current_thread().build().unwrap());
        assert!(before.block_on(async { source.current() }).is_some());
        assert_eq!(source.all().len(), 1);
        meter.runtimes.stop_all(true);
        assert!(after.block_on(async { source.current() }).is_none());
        assert!(meter.runtimes.find(after.handle().id()).is_none() && source.all().is_empty());
        assert!(before.block_on(async { source.current() }).is_some(), "it is known by its name");
    }
}
