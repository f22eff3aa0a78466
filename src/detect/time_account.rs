//! The account of a poll's time: how long its thread was on a CPU, and how long it waited for one.
//! Pure.
//!
//! The kernel counts both over a thread's whole life, and a reading rarely falls on the start or
//! the end of a poll. Between two readings within a poll the amounts are exact. Between a reading
//! before the poll and one within it, they are known to within the time outside of the poll: so
//! each amount has bounds, and a likely value. The likely CPU time spreads it evenly over the time
//! between the readings. The likely run delay is all the time that was not certainly spent on a
//! CPU, as far as its bounds allow, unless the thread was observed asleep: nobody is blamed for a
//! wait that the scheduler accounts for.
//!
//! The verdict relies on what is certain. Where CPUs are short, the watchdog thread waits for one,
//! too, so that the reading from before a poll may be tens of milliseconds older than the poll. Of
//! the CPU time since that reading, a share for the poll is no proof that the poll used it.

use crate::model::event::CpuVerdict;
use crate::model::time::Nanos;

/// A reading of what the kernel counts for a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadTimes {
    /// The moment of the reading.
    pub(crate) at: Nanos,
    /// The time that the thread has been on a CPU.
    pub(crate) cpu: Nanos,
    /// The time that the thread was ready to run without a CPU. The kernel adds a wait when the
    /// thread gets its CPU. `None` where the kernel does not count it.
    pub(crate) run_delay: Option<Nanos>,
    /// The number of times that the thread was given a CPU.
    pub(crate) runs: u64,
    /// True if the thread ran, or was ready to run, at the moment of the reading.
    pub(crate) is_runnable: bool,
}

/// An amount of time that is known within bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) low: Nanos,
    pub(crate) likely: Nanos,
    pub(crate) high: Nanos,
}

impl Estimate {
    /// Returns how much of `total` falls into `inside`, of a window that is longer by `outside`.
    fn part_of(total: Nanos, inside: Nanos, outside: Nanos) -> Estimate {
        let (low, high) = (total.saturating_sub(outside).min(inside), total.min(inside));
        let window = (inside + outside).0.max(1);
        let share = u128::from(total.0) * u128::from(inside.0) / u128::from(window);
        Estimate { low, likely: Nanos(share as u64).clamp(low, high), high }
    }

    fn add(&mut self, other: Estimate) {
        self.low += other.low;
        self.likely += other.likely;
        self.high += other.high;
    }
}

/// How a poll has spent its time so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeAccount {
    /// The time on a CPU.
    pub(crate) cpu: Estimate,
    /// The time that the thread was ready to run without a CPU.
    pub(crate) run_delay: Estimate,
}

/// The part of a time that belongs to a poll. Both are moments.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: Nanos,
    end: Nanos,
}

impl TimeAccount {
    /// Returns the account of a part of the time between two readings.
    /// `pending` is what the thread had waited for a CPU at the second reading, and the kernel had
    /// not counted yet.
    fn between(from: &ThreadTimes, to: &ThreadTimes, poll: Part, pending: Nanos) -> TimeAccount {
        let Part { start, end } = poll;
        let window = to.at.saturating_sub(from.at);
        let inside = to.at.min(end).saturating_sub(from.at.max(start)).min(window);
        let outside = window.saturating_sub(inside);
        let cpu = Estimate::part_of(to.cpu.saturating_sub(from.cpu).min(window), inside, outside);
        let run_delay = match (from.run_delay, to.run_delay) {
            (Some(then), Some(now)) => Estimate::part_of(now.saturating_sub(then) + pending, inside, outside),
            // The kernel does not count the delay, so that nobody is cleared of blame by it.
            _ => Estimate { high: inside.saturating_sub(cpu.low), ..Estimate::default() },
        };
        TimeAccount { cpu, run_delay }
    }

    fn add(&mut self, other: TimeAccount) {
        self.cpu.add(other.cpu);
        self.run_delay.add(other.run_delay);
    }

    /// Adds the time of a poll before the first reading: it is taken to be like the time from then
    /// to the last one.
    fn extrapolate(&mut self, first: &ThreadTimes, last: &ThreadTimes, poll: Part) {
        let unread = first.at.min(poll.end).saturating_sub(poll.start);
        let read = last.at.min(poll.end).saturating_sub(first.at);
        if read > Nanos::ZERO {
            let likely = |part: Nanos| {
                let more = u128::from(part.0) * u128::from(unread.0) / u128::from(read.0);
                Nanos(more as u64).min(unread)
            };
            self.cpu.likely += likely(self.cpu.likely);
            self.run_delay.likely += likely(self.run_delay.likely);
        }
        self.add_unread(unread);
    }

    /// Adds a time of which nothing was read.
    fn add_unread(&mut self, time: Nanos) {
        self.cpu.high += time;
        self.run_delay.high += time;
    }

    /// Returns the time of a poll that lasts `elapsed` without what it waited for a CPU, as far as
    /// the scheduler can account for that.
    pub(crate) fn own_time(&self, elapsed: Nanos) -> Nanos {
        elapsed.saturating_sub(self.run_delay.likely).max(self.cpu.low.min(elapsed))
    }

    /// Returns the verdict about a poll that has lasted for `elapsed`.
    pub(crate) fn verdict(&self, elapsed: Nanos, threshold: Nanos) -> CpuVerdict {
        if self.cpu.low.min(elapsed) >= threshold {
            CpuVerdict::Computed
        } else if self.own_time(elapsed) < threshold {
            CpuVerdict::Starved
        } else {
            CpuVerdict::Other
        }
    }
}

/// The shares of a time that a thread spent on a CPU and waiting for one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shares {
    pub(crate) cpu: f64,
    pub(crate) run_delay: f64,
}

impl Shares {
    /// Returns the share in which the thread was not ready to run.
    pub(crate) fn asleep(self) -> f64 {
        (1.0 - self.cpu - self.run_delay).max(0.0)
    }
}

/// The end of a poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PollEnd {
    /// The moment of the end.
    pub(crate) at: Nanos,
    /// The CPU time that the thread had used by then, if it read it.
    pub(crate) cpu: Option<Nanos>,
}

/// The readings of a poll's thread: the latest from before the poll, the first within it, and the
/// latest.
///
/// What the kernel counted between the first and the latest is one amount: it counts a wait when
/// the wait is over, maybe many readings after its start.
#[derive(Clone, Debug)]
pub(crate) struct PollReadings {
    /// The moment at which the poll started.
    start: Nanos,
    before: Option<ThreadTimes>,
    first: Option<ThreadTimes>,
    latest: Option<ThreadTimes>,
    /// What the thread had waited for a CPU at the latest reading, and the kernel had not counted.
    pending: Nanos,
    /// True if a reading within the poll found the thread asleep.
    was_asleep: bool,
    /// The earliest moment at which a wait for a CPU can have started that lasts at the latest
    /// reading: the thread neither slept nor was given a CPU since then.
    waiting_since: Nanos,
}

impl PollReadings {
    /// Makes the readings of a poll that started at `start`, of earlier ones in the order of their
    /// moments.
    pub(crate) fn new(start: Nanos, readings: impl IntoIterator<Item = ThreadTimes>) -> PollReadings {
        let mut all = PollReadings {
            start,
            before: None,
            first: None,
            latest: None,
            pending: Nanos::ZERO,
            was_asleep: false,
            waiting_since: start,
        };
        readings.into_iter().for_each(|reading| all.add(reading));
        all
    }

    /// Adds a reading.
    pub(crate) fn add(&mut self, reading: ThreadTimes) {
        if reading.at <= self.start {
            self.before = Some(reading);
            return;
        }
        let previous = self.latest.or(self.before);
        if previous.is_some_and(|previous| reading.at < previous.at) {
            return;
        }
        // A thread that was given no CPU since the previous reading has not slept either: it was
        // ready to run then, or has started the poll since.
        let never_slept = previous.filter(|previous| {
            previous.runs == reading.runs && reading.is_runnable && (previous.is_runnable || previous.at <= self.start)
        });
        self.pending = never_slept.map_or(Nanos::ZERO, |previous| self.pending + unaccounted(&previous, &reading));
        self.was_asleep |= !reading.is_runnable;
        if !reading.is_runnable {
            self.waiting_since = reading.at;
        } else if let Some(previous) = previous.filter(|previous| previous.runs != reading.runs) {
            self.waiting_since = self.waiting_since.max(previous.at);
        }
        self.first.get_or_insert(reading);
        self.latest = Some(reading);
    }

    /// Takes in that the thread is waiting for a CPU at the latest reading. It is taken to wait
    /// since the earliest moment that the readings allow.
    pub(crate) fn set_waiting_for_cpu(&mut self) {
        let Some(latest) = self.latest else { return };
        let so_far = self.so_far();
        let elapsed = latest.at.saturating_sub(self.start);
        let unaccounted = elapsed.saturating_sub(so_far.cpu.likely + so_far.run_delay.likely);
        self.pending += unaccounted.min(latest.at.saturating_sub(self.waiting_since));
    }

    /// Returns the latest reading within the poll.
    pub(crate) fn latest(&self) -> Option<&ThreadTimes> {
        self.latest.as_ref()
    }

    /// Returns the time between the readings since an earlier state of these, or between all.
    pub(crate) fn read_since(&self, earlier: Option<&PollReadings>) -> Nanos {
        let Some(latest) = &self.latest else { return Nanos::ZERO };
        let from = earlier.and_then(|earlier| earlier.latest).or(self.before).or(self.first);
        from.map_or(Nanos::ZERO, |from| latest.at.saturating_sub(from.at))
    }

    /// Returns the account up to the latest reading. What was not read is taken to be like the
    /// rest.
    pub(crate) fn so_far(&self) -> TimeAccount {
        self.account(self.latest, PollEnd { at: Nanos::MAX, cpu: None }, self.pending)
    }

    /// Returns the account of the whole poll. `after` is a reading from after its end.
    pub(crate) fn at_end(&self, end: PollEnd, after: Option<ThreadTimes>) -> TimeAccount {
        match after.filter(|after| self.latest.is_none_or(|latest| after.at >= latest.at)) {
            // By then, the kernel has counted what was pending.
            Some(after) => self.account(Some(after), end, Nanos::ZERO),
            None => {
                let mut account = self.so_far();
                account.add_unread(self.latest.map_or(Nanos::ZERO, |latest| end.at.saturating_sub(latest.at)));
                account
            }
        }
    }

    /// Returns the verdict about a poll that has ended, and was observed for `elapsed`.
    ///
    /// A scan still finds a poll whose thread lost its CPU after it had read the clock at the
    /// poll's end. That time is none of the poll's.
    pub(crate) fn verdict_at_end(
        &self,
        elapsed: Nanos,
        end: PollEnd,
        after: Option<ThreadTimes>,
        threshold: Nanos,
    ) -> CpuVerdict {
        let elapsed = elapsed.min(end.at.saturating_sub(self.start));
        self.at_end(end, after).verdict(elapsed, threshold)
    }

    /// Returns the account of the poll until its end, by the readings up to `last`.
    fn account(&self, last: Option<ThreadTimes>, end: PollEnd, pending: Nanos) -> TimeAccount {
        let mut account = TimeAccount::default();
        let Some(last) = last else { return account };
        let first = self.first.unwrap_or(last);
        let part = Part { start: self.start, end: end.at };
        let pending_at = |reading: &ThreadTimes| if reading.at == last.at { pending } else { Nanos::ZERO };
        if first.at < last.at {
            account.add(TimeAccount::between(&first, &last, part, pending));
        }
        match &self.before {
            Some(before) => account.add(TimeAccount::between(before, &first, part, pending_at(&first))),
            None => account.extrapolate(&first, &last, part),
        }
        if let Some(cpu) = end.cpu {
            account.cpu = self.cpu_until(cpu, end.at);
        }
        if !self.was_asleep
            && let Some(run_delay) = self.delay_of_never_asleep(account, &last, end.at, pending)
        {
            account.run_delay = run_delay;
        }
        account
    }

    /// Returns the CPU time of a poll whose thread had used `cpu` at the poll's end.
    fn cpu_until(&self, cpu: Nanos, end: Nanos) -> Estimate {
        let from = |reading: &ThreadTimes| cpu.saturating_sub(reading.cpu);
        let elapsed = end.saturating_sub(self.start);
        let from_first = self.first.as_ref().map(from);
        let unread = self.first.map_or(end, |first| first.at).saturating_sub(self.start);
        match (&self.before, from_first) {
            // Only the time from the reading to the start of the poll is not its own.
            (Some(before), None) => Estimate::part_of(from(before), elapsed, self.start.saturating_sub(before.at)),
            (Some(before), Some(exact)) => {
                let head = from(before).saturating_sub(exact);
                let mut cpu = Estimate::part_of(head, unread, self.start.saturating_sub(before.at));
                cpu.add(Estimate { low: exact, likely: exact, high: exact });
                cpu
            }
            (None, exact) => {
                let exact = exact.unwrap_or_default();
                Estimate { low: exact, likely: exact, high: exact + unread }
            }
        }
    }

    /// Returns the run delay of a poll that was not observed asleep: all the time that it was not
    /// certainly on a CPU, as far as the kernel counted delays for the thread. `None` where it
    /// counts none.
    fn delay_of_never_asleep(
        &self,
        account: TimeAccount,
        last: &ThreadTimes,
        end: Nanos,
        pending: Nanos,
    ) -> Option<Estimate> {
        let first = self.first.unwrap_or(*last);
        let counted = |from: &ThreadTimes| Some(last.run_delay?.saturating_sub(from.run_delay?) + pending);
        // What was counted after the first reading may be a wait that started before it.
        let mut most = counted(&first)? + first.at.min(end).saturating_sub(self.start);
        if let Some(before) = &self.before {
            most = most.min(counted(before)?);
        }
        let elapsed = last.at.min(end).saturating_sub(self.start);
        let low = account.run_delay.low;
        let high = most.min(elapsed.saturating_sub(account.cpu.low)).max(low);
        Some(Estimate { low, likely: high, high })
    }

    /// Returns how the thread has spent the time since an earlier state of these readings, or the
    /// whole poll. `None` where nothing was read in between.
    pub(crate) fn shares_since(&self, earlier: Option<&PollReadings>) -> Option<Shares> {
        if self.read_since(earlier) == Nanos::ZERO {
            return None;
        }
        let latest = self.latest?;
        let share = |part: Nanos, time: Nanos| (part.0 as f64 / time.0 as f64).min(1.0);
        let Some((earlier, then)) = earlier.and_then(|earlier| Some((earlier, earlier.latest?))) else {
            let (all, time) = (self.so_far(), latest.at.saturating_sub(self.start));
            return Some(Shares { cpu: share(all.cpu.likely, time), run_delay: share(all.run_delay.likely, time) });
        };
        // Between two readings within the poll all is exact.
        let time = latest.at.saturating_sub(then.at);
        let delay = |reading: ThreadTimes, pending: Nanos| reading.run_delay.unwrap_or_default() + pending;
        let run_delay = delay(latest, self.pending).saturating_sub(delay(then, earlier.pending));
        Some(Shares { cpu: share(latest.cpu.saturating_sub(then.cpu), time), run_delay: share(run_delay, time) })
    }
}

/// Returns the time between two readings that the kernel has counted neither as time on a CPU nor
/// as a wait for one.
fn unaccounted(from: &ThreadTimes, to: &ThreadTimes) -> Nanos {
    let cpu = to.cpu.saturating_sub(from.cpu);
    let delay = to.run_delay.zip(from.run_delay).map_or(Nanos::ZERO, |(to, from)| to.saturating_sub(from));
    to.at.saturating_sub(from.at).saturating_sub(cpu + delay)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
