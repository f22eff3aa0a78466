//! What the kernel does on behalf of a blocked thread: readings from when its poll was first
//! observed, and what has been added since.
//!
//! The mode of the CPU is known by the kernel's samples only, one per tick ([`CpuModes`]). So the
//! share of the system time is taken from the samples, and the time itself from the exact CPU time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pollwatch_stack::procfs::{PageFaults, page_faults, steal};
use pollwatch_stack::{CpuModes, Tid};

use super::identity::IdentityKey;
use crate::model::id::ThreadNumber;
use crate::model::kernel_time::KernelUsage;

/// The number of threads that one scan reads.
const MAX_READS: usize = 16;
/// A reading of the steal is repeated at the earliest after this many times what it took: the file
/// is long on a machine with many CPUs.
const STEAL_PAUSES: u32 = 100;
/// The age up to which a reading of the steal counts as one of this moment. It is less than the
/// kernel's unit of 10 ms.
const STEAL_AGE: Duration = Duration::from_millis(5);

/// What the kernel has counted for a thread, and for the machine, up to a moment.
#[derive(Clone, Copy, Debug)]
struct KernelReading {
    modes: Option<CpuModes>,
    page_faults: Option<PageFaults>,
    steal: Option<Duration>,
}

/// A stall, or a poll that may become one.
type SubjectKey = (ThreadNumber, IdentityKey);

/// The readings of the threads in long polls, from when each poll was first observed.
#[derive(Debug, Default)]
pub(crate) struct KernelTimes {
    baselines: HashMap<SubjectKey, KernelReading>,
    steal: StealReader,
}

impl KernelTimes {
    /// Takes in the long polls of a scan: reads the threads of those that are new, and forgets
    /// those that are over. `is_alive` returns whether a thread exists.
    pub(crate) fn update(
        &mut self,
        polls: impl Iterator<Item = (SubjectKey, Tid)>,
        is_alive: impl Fn(ThreadNumber) -> bool,
    ) {
        let mut known = std::mem::take(&mut self.baselines);
        let mut reads = 0;
        for (key, tid) in polls {
            if let Some(baseline) = known.remove(&key) {
                self.baselines.insert(key, baseline);
            } else if reads < MAX_READS {
                reads += 1;
                let reading = self.read(tid);
                self.baselines.insert(key, reading);
            }
        }
        let of_workers = |(thread, key): &SubjectKey| matches!(key, IdentityKey::Worker { .. }) && is_alive(*thread);
        self.baselines.extend(known.into_iter().filter(|(key, _)| of_workers(key)));
    }

    /// Returns what the kernel did for a thread since the stall was first observed, or from now on
    /// if it has not been. `on_cpu` is the thread's CPU time since then.
    pub(crate) fn usage(&mut self, key: SubjectKey, tid: Tid, on_cpu: Option<Duration>) -> KernelUsage {
        let now = self.read(tid);
        if let IdentityKey::Worker { .. } = key.1 {
            // A thread is in one such stall at a time.
            self.baselines.retain(|known, _| known.0 != key.0 || *known == key);
        }
        let before = self.baselines.entry(key).or_insert(now);
        KernelUsage {
            system_time: now.modes.zip(before.modes).zip(on_cpu).and_then(|((now, before), on_cpu)| {
                system_time(
                    CpuModes {
                        user: now.user.saturating_sub(before.user),
                        system: now.system.saturating_sub(before.system),
                    },
                    on_cpu,
                )
            }),
            page_faults: now.page_faults.zip(before.page_faults).map(|(now, before)| PageFaults {
                minor: now.minor.saturating_sub(before.minor),
                major: now.major.saturating_sub(before.major),
            }),
            steal: now.steal.zip(before.steal).map(|(now, before)| now.saturating_sub(before)),
            fork: None,
        }
    }

    fn read(&mut self, tid: Tid) -> KernelReading {
        KernelReading { modes: tid.cpu_modes(), page_faults: page_faults(tid), steal: self.steal.read() }
    }
}

/// Returns the part of a CPU time that was system time, by what was sampled in that time. `None`
/// when nothing was.
fn system_time(sampled: CpuModes, on_cpu: Duration) -> Option<Duration> {
    let all = sampled.user + sampled.system;
    (all > Duration::ZERO).then(|| on_cpu.mul_f64(sampled.system.as_secs_f64() / all.as_secs_f64()))
}

/// Reads the steal of the machine, for at most some 1 % of the time.
#[derive(Debug, Default)]
struct StealReader {
    latest: Option<StealReading>,
}

#[derive(Clone, Copy, Debug)]
struct StealReading {
    steal: Option<Duration>,
    at: Instant,
    /// The moment of the next reading.
    next: Instant,
}

impl StealReader {
    /// Returns the steal up to this moment; `None` where the kernel does not count it, and where it
    /// is too early to read it again.
    fn read(&mut self) -> Option<Duration> {
        let start = Instant::now();
        let latest = match self.latest {
            Some(latest) if start < latest.next => latest,
            _ => {
                let steal = steal();
                let at = Instant::now();
                StealReading { steal, at, next: at + at.duration_since(start) * STEAL_PAUSES }
            }
        };
        self.latest = Some(latest);
        latest.steal.filter(|_| start.saturating_duration_since(latest.at) <= STEAL_AGE)
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::detect::identity::BusyPeriod;
    use crate::model::id::FrameNumber;
    use crate::model::time::Nanos;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_share_of_system_time_is_sampled_and_the_time_is_exact() {
        let sampled = |user: u32, system: u32| CpuModes { user: MS * 4 * user, system: MS * 4 * system };
        assert_eq!(system_time(sampled(5, 20), 100 * MS), Some(80 * MS));
        assert_eq!(system_time(sampled(0, 3), 13 * MS), Some(13 * MS));
        assert_eq!(system_time(sampled(3, 0), 13 * MS), Some(Duration::ZERO));
        assert_eq!(system_time(sampled(0, 0), 3 * MS), None, "no tick");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn usage_counts_from_the_first_observation() {
        let own = Tid::current().unwrap();
        let key = |number| (ThreadNumber(1), IdentityKey::Poll(FrameNumber(number)));
        let mut times = KernelTimes::default();
        times.update([(key(1), own)].into_iter(), |_| true);
        let fault = || {
            let mut memory = vec![0u8; 16 << 20];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = std::hint::black_box(1));
        };
        fault();
        times.update([(key(1), own)].into_iter(), |_| true);
        let faults = |times: &mut KernelTimes, number| times.usage(key(number), own, None).page_faults.unwrap().minor;
        // A few huge pages, or thousands of small ones.
        let (first, second) = (faults(&mut times, 1), faults(&mut times, 2));
        assert!(first >= 4, "since the poll was first observed: {first}");
        assert!(second < first, "another poll: {second}");
        times.update(std::iter::empty(), |_| true);
        assert!(times.baselines.is_empty(), "polls that are over are forgotten");
    }

    /// Threads that are not measured are in no measured poll, and their slots never change.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_waits_of_a_worker_are_counted_apart_and_kept_while_its_thread_lives() {
        let own = Tid::current().unwrap();
        let key = |thread, cpu: u64| {
            let period = BusyPeriod { event: 0, slot_version: 0 };
            (ThreadNumber(thread), IdentityKey::Worker { period, cpu: Some(Nanos(cpu)) })
        };
        let mut times = KernelTimes::default();
        for wait in [key(1, 1), key(2, 1), key(1, 2)] {
            times.usage(wait, own, None);
        }
        let keys = |times: &KernelTimes| times.baselines.keys().copied().collect::<HashSet<SubjectKey>>();
        assert_eq!(keys(&times), HashSet::from([key(2, 1), key(1, 2)]), "the first wait is over");
        times.update(std::iter::empty(), |thread| thread == ThreadNumber(2));
        assert_eq!(keys(&times), HashSet::from([key(2, 1)]));
    }

    #[test]
    fn no_scan_reads_more_threads_than_the_limit() {
        let mut times = KernelTimes::default();
        let polls = |count: u64| {
            (0..count).map(|n| ((ThreadNumber(n), IdentityKey::Poll(FrameNumber(n))), Tid::from_raw(i32::MAX)))
        };
        for scan in 1..=3 {
            times.update(polls(100), |_| false);
            assert_eq!(times.baselines.len(), scan * MAX_READS);
        }
    }

    #[test]
    fn the_steal_is_not_read_all_the_time() {
        let mut reader = StealReader::default();
        let first = reader.read();
        let next = reader.latest.unwrap().next;
        let again = reader.read();
        assert!(Instant::now() >= next || reader.latest.unwrap().next == next && again == first);
        reader.latest.as_mut().unwrap().at -= 2 * STEAL_AGE;
        reader.latest.as_mut().unwrap().next += Duration::from_secs(60);
        assert_eq!(reader.read(), None, "it is too old");
    }
}
