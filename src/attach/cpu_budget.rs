//! The CPU time that the engine may take.

use std::time::Duration;

use pollwatch_stack::Pid;

/// Scans take at most this part of one CPU, on average, on the engine's own thread. Threads that
/// read a file or stop a thread for it are not counted.
const MAX_SHARE: u32 = 8;
/// The CPU time that scans may take at once, so that one expensive scan delays no other.
const BURST: Duration = Duration::from_millis(100);
/// Samples take at most this part of the time of all CPUs, on average, on all threads, while no CPU
/// is free. What they take then is throughput that the other process loses.
const MAX_SAMPLE_SHARE: u32 = 200;
/// CPUs are free if together they have nothing to do for this part of the time. Samples take less.
const MIN_IDLE_SHARE: u32 = 4;
/// The interval at which the time of CPUs that have nothing to do is read.
const IDLE_INTERVAL: Duration = Duration::from_millis(200);
/// The CPU time that samples may take at once.
const SAMPLE_BURST: Duration = Duration::from_millis(50);

/// The CPU time that scans have taken, and that of the samples among it, each in a leaky bucket,
/// which drains by the share that it may take.
///
/// A scan that comes late misses waits, which are certain. So what is left out first is what is
/// only suspected: samples, and the search for further threads of runtimes.
#[derive(Debug)]
pub(super) struct CpuBudgets {
    cpus: u32,
    scans: Duration,
    samples: Duration,
    idle: IdleCpus,
}

impl CpuBudgets {
    pub(super) fn new(cpus: usize) -> CpuBudgets {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        CpuBudgets { cpus, scans: Duration::ZERO, samples: Duration::ZERO, idle: IdleCpus::default() }
    }

    /// Drains both by the time since the scan before. `read_idle` reads the time that CPUs had
    /// nothing to do.
    pub(super) fn drain(&mut self, passed: Duration, read_idle: impl FnOnce() -> Option<Duration>) {
        self.scans = self.scans.saturating_sub(passed / MAX_SHARE);
        self.samples = self.samples.saturating_sub(passed.saturating_mul(self.cpus) / MAX_SAMPLE_SHARE);
        self.idle.advance(passed, read_idle);
    }

    /// Returns whether a scan may search for threads of runtimes.
    pub(super) fn admit_search(&self) -> bool {
        self.scans < BURST / 2
    }

    /// Returns whether a scan may sample threads that run, or wait for short times.
    pub(super) fn admit_samples(&self) -> bool {
        self.admit_search() && (self.idle.are_free || self.samples < SAMPLE_BURST)
    }

    /// Adds the CPU time of a scan, and that of its samples. Returns the time to rest before the
    /// next scan.
    pub(super) fn add(&mut self, scan: Duration, samples: Duration) -> Duration {
        self.scans += scan;
        if !self.idle.are_free {
            self.samples += samples;
        }
        self.scans.saturating_sub(BURST) * MAX_SHARE
    }
}

/// Whether CPUs of this machine are free.
#[derive(Debug, Default)]
struct IdleCpus {
    are_free: bool,
    /// The latest reading, and the time since.
    read: Option<Duration>,
    since: Duration,
}

impl IdleCpus {
    fn advance(&mut self, passed: Duration, read: impl FnOnce() -> Option<Duration>) {
        self.since += passed;
        if self.read.is_some() && self.since < IDLE_INTERVAL {
            return;
        }
        let earlier = std::mem::replace(&mut self.read, read());
        let idle = self.read.zip(earlier).map(|(now, earlier)| now.saturating_sub(earlier));
        self.are_free = idle.is_some_and(|idle| idle * MIN_IDLE_SHARE >= self.since);
        self.since = Duration::ZERO;
    }
}

/// The CPU time of all threads of this process since a moment: some read the other process for the
/// engine's thread.
pub(super) struct SamplingClock(Option<Duration>);

impl SamplingClock {
    pub(super) fn start() -> SamplingClock {
        SamplingClock(Pid::own_cpu_time())
    }

    pub(super) fn elapsed(self) -> Duration {
        Pid::own_cpu_time().zip(self.0).map_or(Duration::ZERO, |(now, start)| now.saturating_sub(start))
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_expensive_scan_delays_no_other_and_the_average_is_kept() {
        let mut budgets = CpuBudgets::new(2);
        assert_eq!(budgets.add(BURST, Duration::ZERO), Duration::ZERO);
        let (cpu, mut time) = (Duration::from_millis(3), Duration::ZERO);
        for _ in 0..100 {
            let passed = budgets.add(cpu, Duration::ZERO).max(Duration::from_millis(5));
            budgets.drain(passed, || None);
            time += passed;
        }
        assert_eq!(time, 100 * cpu * MAX_SHARE);
    }

    #[test]
    fn samples_take_a_share_of_all_cpus_and_delay_no_scan() {
        for cpus in [1, 2, 16] {
            let mut budgets = CpuBudgets::new(cpus);
            let (interval, mut taken) = (Duration::from_micros(2_500), Duration::ZERO);
            for _ in 0..10_000 {
                budgets.drain(interval, || None);
                let sample = if budgets.admit_samples() { Duration::from_micros(600) } else { Duration::ZERO };
                taken += sample;
                assert_eq!(budgets.add(Duration::from_micros(50), sample), Duration::ZERO);
            }
            let share = interval * 10_000 * cpus as u32 / MAX_SAMPLE_SHARE;
            let wanted = Duration::from_micros(600) * 10_000;
            let expected = share.min(wanted);
            assert!(taken <= expected + SAMPLE_BURST + Duration::from_micros(600), "{cpus} CPUs: {taken:?}");
            assert!(taken >= expected.mul_f64(0.95), "{cpus} CPUs: {taken:?}");
        }
    }

    #[test]
    fn samples_are_limited_only_while_no_cpu_is_free() {
        let (mut budgets, mut idle) = (CpuBudgets::new(2), Duration::ZERO);
        let mut admitted = |idle_share: u32| {
            let mut count = 0;
            for _ in 0..1_000 {
                let passed = Duration::from_millis(5);
                idle += passed * idle_share / 100;
                budgets.drain(passed, || Some(idle));
                let is_admitted = budgets.admit_samples();
                count += u32::from(is_admitted);
                let samples = if is_admitted { Duration::from_millis(1) } else { Duration::ZERO };
                budgets.add(Duration::ZERO, samples);
            }
            count
        };
        assert_eq!(admitted(60), 1_000);
        let busy = admitted(10);
        assert!((50..=150).contains(&busy), "{busy}: 50 ms for the share of 5 s, a burst, and an interval");
        assert!(admitted(60) >= 900);
    }
}
