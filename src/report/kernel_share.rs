//! The kernel's share of the CPU time of one segment, by what examinations read. Pure.

use std::time::Duration;

use crate::model::stall::Stall;

/// The longest time of a page fault that waits for nothing. To clear a huge page of 2 MiB takes
/// some 100 µs, a page of 4 KiB less than 1 µs.
const LONGEST_PAGE_FAULT: Duration = Duration::from_micros(250);

/// The CPU time from which the sampled share of the kernel is reliable by itself. It is at least 10
/// of the kernel's samples, one per tick of at most 10 ms.
const RELIABLE_SAMPLES: Duration = Duration::from_millis(100);

/// The kernel's share of the CPU time of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelShare {
    /// Half of the time at most, or unknown.
    Minor,
    /// More than half of the time, by few samples of the kernel. Only a call on the stack confirms
    /// it.
    Likely,
    /// More than half of the time.
    Most,
    /// More than half of the time, and with so many page faults that they can account for it.
    MostWithPageFaults,
    /// At least half of the stall was a fork, as the fork itself recorded it.
    Fork,
}

impl KernelShare {
    /// Returns the share of a stall that was never examined.
    pub(super) fn of_unexamined(stall: &Stall) -> KernelShare {
        if stall.is_mostly_fork() { KernelShare::Fork } else { KernelShare::Minor }
    }
}

/// The usage of a thread since its poll was first observed, up to an examination. Values that are
/// not known are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuUsage {
    pub(super) on_cpu: Duration,
    /// The part of `on_cpu` that was in the kernel.
    pub(super) system_time: Duration,
    pub(super) page_faults: u64,
    /// The longest fork of the thread.
    pub(super) fork: Duration,
}

impl CpuUsage {
    /// Returns the usage up to the latest examination of a stall.
    pub(super) fn of(stall: &Stall) -> CpuUsage {
        CpuUsage {
            on_cpu: stall.on_cpu.unwrap_or_default(),
            system_time: stall.system_time.unwrap_or_default(),
            page_faults: stall.page_faults.map_or(0, |faults| faults.minor + faults.major),
            fork: stall.fork.unwrap_or_default(),
        }
    }

    fn since(self, earlier: CpuUsage) -> CpuUsage {
        CpuUsage {
            on_cpu: self.on_cpu.saturating_sub(earlier.on_cpu),
            system_time: self.system_time.saturating_sub(earlier.system_time),
            page_faults: self.page_faults.saturating_sub(earlier.page_faults),
            fork: self.fork.saturating_sub(earlier.fork),
        }
    }

    fn kernel_share(self) -> KernelShare {
        let CpuUsage { on_cpu, system_time, page_faults, .. } = self;
        match u32::try_from(page_faults).unwrap_or(u32::MAX) {
            _ if system_time <= on_cpu / 2 => KernelShare::Minor,
            faults if LONGEST_PAGE_FAULT.saturating_mul(faults) >= system_time => KernelShare::MostWithPageFaults,
            _ if on_cpu < RELIABLE_SAMPLES => KernelShare::Likely,
            _ => KernelShare::Most,
        }
    }
}

/// The usage of a thread in one segment, as a difference of two examinations.
///
/// A segment starts between two examinations. The time before its first one may be of the segment
/// before, so it is left out once enough CPU time has been used after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentUsage {
    /// The usage at the latest examination before the segment.
    before: CpuUsage,
    /// The usage at the segment's first examination.
    first: CpuUsage,
    /// The usage at the segment's latest examination.
    latest: CpuUsage,
}

impl SegmentUsage {
    /// Returns the usage of the first segment of a stall, which starts with the poll.
    pub(super) fn of_first_segment(usage: CpuUsage) -> SegmentUsage {
        SegmentUsage { latest: usage, ..SegmentUsage::default() }
    }

    /// Returns the usage of a segment that was found by an examination with this usage. `before` is
    /// the usage at the examination before that.
    pub(super) fn between(before: CpuUsage, usage: CpuUsage) -> SegmentUsage {
        SegmentUsage { before, first: usage, latest: usage }
    }

    /// Adds the examinations of a later part of the segment.
    pub(super) fn extend(&mut self, later: SegmentUsage) {
        if later.latest.on_cpu >= self.latest.on_cpu {
            self.latest = later.latest;
        }
    }

    /// Sets the time of a fork that was longer than those before, and outlasted the latest
    /// examination.
    pub(super) fn set_fork(&mut self, fork: Duration) {
        self.latest.fork = fork;
    }

    /// Returns the CPU time of the segment, as far as examinations show it.
    pub(super) fn on_cpu(self) -> Duration {
        self.used().on_cpu
    }

    /// Returns the kernel's share of the CPU time of this segment of a stall.
    ///
    /// A fork grows while it is in progress, and an examination after its end still finds growth.
    /// So it is named only if it grew by at least half of the segment's CPU time.
    pub(super) fn kernel_share(self, stall: &Stall) -> KernelShare {
        let CpuUsage { fork, on_cpu, .. } = self.latest.since(self.before);
        let has_forked = !fork.is_zero() && fork >= on_cpu / 2;
        match has_forked && stall.is_mostly_fork() {
            true => KernelShare::Fork,
            false => self.share(),
        }
    }

    fn share(self) -> KernelShare {
        self.used().kernel_share()
    }

    fn used(self) -> CpuUsage {
        let since_first = self.latest.since(self.first);
        match since_first.on_cpu >= RELIABLE_SAMPLES {
            true => since_first,
            false => self.latest.since(self.before),
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::report::samples;

    fn usage(on_cpu: u64, system: u64, page_faults: u64) -> CpuUsage {
        let [on_cpu, system_time] = [on_cpu, system].map(Duration::from_millis);
        CpuUsage { on_cpu, system_time, page_faults, ..CpuUsage::default() }
    }

    #[test]
    fn the_share_is_that_of_the_time_between_two_examinations() {
        let share = |before, now| SegmentUsage::between(before, now).share();
        assert_eq!(share(usage(3_000, 0, 0), usage(4_000, 950, 0)), KernelShare::Most);
        assert_eq!(share(usage(3_000, 3_000, 9_000), usage(4_000, 3_050, 9_001)), KernelShare::Minor);
        assert_eq!(share(usage(3_000, 0, 0), usage(3_020, 20, 0)), KernelShare::Likely, "few samples");
        assert_eq!(share(usage(50, 0, 10_000), usage(550, 500, 10_001)), KernelShare::Most, "faults of before");
        assert_eq!(share(usage(50, 0, 0), usage(550, 500, 10_001)), KernelShare::MostWithPageFaults);
        assert_eq!(share(CpuUsage::default(), CpuUsage::default()), KernelShare::Minor, "unknown");
    }

    /// The thread enters the kernel shortly before the examination that finds it there, or leaves
    /// it shortly before the one that finds it in user mode.
    #[test]
    fn time_before_the_first_examination_of_a_segment_is_left_out() {
        let mut entered = SegmentUsage::between(usage(3_000, 0, 0), usage(4_000, 100, 0));
        assert_eq!(entered.share(), KernelShare::Minor);
        entered.extend(SegmentUsage::between(usage(4_000, 100, 0), usage(4_050, 150, 0)));
        assert_eq!(entered.share(), KernelShare::Minor, "too few samples to leave the others out");
        entered.extend(SegmentUsage::between(usage(4_050, 150, 0), usage(4_200, 300, 0)));
        assert_eq!(entered.share(), KernelShare::Most);
        let mut left = SegmentUsage::between(usage(3_000, 3_000, 0), usage(4_000, 3_900, 0));
        assert_eq!(left.share(), KernelShare::Most);
        left.extend(SegmentUsage::between(usage(4_000, 3_900, 0), usage(4_200, 3_900, 0)));
        assert_eq!((left.share(), left.on_cpu()), (KernelShare::Minor, Duration::from_millis(200)));
    }

    #[test]
    fn a_fork_is_named_in_the_segment_in_which_it_happened() {
        let mut stall = samples::stall(1, 100);
        stall.fork = Some(Duration::from_millis(60));
        let forked = CpuUsage { fork: Duration::from_millis(60), ..usage(60, 60, 0) };
        assert_eq!(SegmentUsage::of_first_segment(forked).kernel_share(&stall), KernelShare::Fork);
        let after = CpuUsage { on_cpu: Duration::from_millis(100), ..forked };
        assert_eq!(SegmentUsage::between(forked, after).kernel_share(&stall), KernelShare::Minor);
        stall.elapsed *= 2;
        assert_ne!(SegmentUsage::of_first_segment(forked).kernel_share(&stall), KernelShare::Fork, "a part of it");
    }

    /// An examination finds the fork in progress, and the next one the code after it.
    #[test]
    fn a_fork_that_ends_between_two_examinations_is_not_named_in_the_segment_after_it() {
        let forked = |on_cpu, fork| CpuUsage { fork: Duration::from_millis(fork), ..usage(on_cpu, fork, 0) };
        let mut stall = samples::stall(1, 65);
        stall.fork = Some(Duration::from_millis(60));
        let mut after = SegmentUsage::between(forked(40, 40), forked(65, 60));
        assert_eq!(after.kernel_share(&stall), KernelShare::Fork, "most of what is known of it");
        stall.elapsed = Duration::from_millis(110);
        after.extend(SegmentUsage::between(forked(65, 60), forked(110, 60)));
        assert_eq!(after.kernel_share(&stall), KernelShare::Minor);
    }
}
