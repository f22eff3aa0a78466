//! One ongoing stall: its segments, and its part of the totals.

use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::Stack;

use super::findings::{Findings, WaitedFor};
use super::kernel_share::{CpuUsage, SegmentUsage};
use super::reason;
use super::requests::StallRequests;
use super::segments::{ProfileSample, SampleNumber, SegmentHistory};
use super::totals::{CountAndTime, StallKey, StallTotals};
use crate::model::cause::{Cause, Certainty};
use crate::model::event::{BlockedRequest, CpuVerdict, Liveness, StallEnd, StallOrigin, StallProgress, StallStarted};
#[cfg(feature = "server")]
use crate::model::id::PollKey;
use crate::model::lock::LockInfo;
use crate::model::stall::{Phase, Stall};
use crate::model::time::Nanos;
use crate::model::victims::Victims;

/// The duration from which a stall is counted before its end.
const COUNTED_AFTER: Nanos = Nanos::from_millis(1_000);

/// A stall and its origin, which decides under which keys it is counted.
#[derive(Clone, Debug)]
pub(crate) struct StallRecord {
    pub(crate) stall: Stall,
    pub(crate) origin: StallOrigin,
    /// The number of the state: later ones have greater numbers.
    pub(crate) version: u64,
}

/// The state of a stall after an update.
#[derive(Debug)]
pub(super) struct UpdatedStall {
    pub(super) record: StallRecord,
    /// The number of the stack that was captured last.
    pub(super) sample: SampleNumber,
    /// True while a captured stack of the stall is not symbolized yet.
    pub(super) is_pending: bool,
    /// The parts of the stall that are new in the profile.
    pub(super) profiled: Vec<ProfileSample>,
}

/// An ongoing stall, or one whose last stacks are not symbolized yet.
#[derive(Debug)]
pub(super) struct StoredStall {
    /// The stall as it is shown.
    record: StallRecord,
    key: StallKey,
    #[cfg(feature = "server")]
    pub(super) poll: Option<PollKey>,
    pub(super) liveness: Arc<dyn Liveness>,
    /// The moment at which `stall.elapsed` was measured.
    pub(super) at: Nanos,
    history: SegmentHistory,
    verdict: CpuVerdict,
    /// The part of the stall's time that is in the totals already. Totals never decrease.
    accrued: Nanos,
    /// The part of `accrued` for which the task is not blamed.
    excused: Nanos,
    /// The cause under which the stall was counted.
    counted_as: Option<Cause>,
    requests: StallRequests,
    /// The number of captured stacks that are not symbolized yet.
    pending_stacks: usize,
}

impl StoredStall {
    pub(super) fn new(started: StallStarted, has_stack: bool) -> StoredStall {
        let StallStarted { mut stall, origin, at, liveness, verdict, .. } = started;
        let mut findings = Findings {
            cause: stall.cause,
            syscall: stall.syscall.take(),
            stack: None,
            reason: stall.reason,
            advice: stall.advice,
            lock: None,
            pool: None,
            usage: SegmentUsage::of_first_segment(CpuUsage::of(&stall)),
        };
        explain(&mut stall, &mut findings);
        let history = SegmentHistory::new(findings, stall.elapsed, has_stack);
        let mut ongoing = StoredStall {
            key: StallKey::new(origin, &stall),
            record: StallRecord { stall, origin, version: 0 },
            #[cfg(feature = "server")]
            poll: started.poll,
            liveness,
            at,
            history,
            verdict,
            accrued: Nanos::ZERO,
            excused: Nanos::ZERO,
            counted_as: None,
            requests: StallRequests::default(),
            pending_stacks: usize::from(has_stack),
        };
        ongoing.show();
        ongoing
    }

    pub(super) fn stall(&self) -> &Stall {
        &self.record.stall
    }

    /// Returns whether the thread is known to wait for no lock, as of the latest examination.
    pub(super) fn has_left_lock(&self) -> bool {
        let Stall { phase, cause, .. } = self.record.stall;
        phase == Phase::Resolved || matches!(cause, Cause::Cpu | Cause::Syscall | Cause::Starved)
    }

    pub(super) fn key(&self) -> &StallKey {
        &self.key
    }

    pub(super) fn record(&self) -> &StallRecord {
        &self.record
    }

    /// Returns the state of the stall, and takes its time for the profile.
    pub(super) fn updated(&mut self) -> UpdatedStall {
        self.record.version += 1;
        let (mut profiled, stall) = (Vec::new(), &self.record.stall);
        // While a stack is pending, the profile waits for it: it never counts a stall whose time it
        // does not have.
        if self.pending_stacks == 0 {
            profiled = self.history.take_profiled();
            if stall.phase == Phase::Resolved {
                let amount = CountAndTime { count: 1, time: Nanos::ZERO };
                profiled.push(ProfileSample { cause: stall.cause, stack: stall.stack.clone(), amount });
            }
        }
        UpdatedStall {
            record: self.record.clone(),
            sample: self.history.latest_sample(),
            is_pending: self.pending_stacks > 0,
            profiled,
        }
    }

    /// Sets the duration of the stall at the moment `at`.
    pub(super) fn set_elapsed(&mut self, elapsed: Duration, at: Nanos) {
        (self.record.stall.elapsed, self.at) = (elapsed, at);
    }

    /// Adds the results of a further examination. Time until `since` belongs to the segment before.
    pub(super) fn examine(&mut self, progress: StallProgress, has_stack: bool, totals: &mut StallTotals) {
        let StallProgress { elapsed, at, since, cause, syscall, on_cpu, kernel, no_stack, spans, verdict, .. } =
            progress;
        self.accrue_until(since.min(elapsed).into(), totals);
        if cause != self.history.current().cause {
            let changed_at = at.saturating_sub(elapsed.saturating_sub(since).into());
            let open_frames = self.liveness.open_frames();
            self.requests.accrue(changed_at, open_frames.as_deref(), self.is_blamed(), totals);
        }
        self.set_elapsed(elapsed, at);
        self.verdict = verdict;
        let stall = &mut self.record.stall;
        let before = CpuUsage::of(stall);
        stall.on_cpu = on_cpu.or(stall.on_cpu);
        stall.set_kernel_usage(kernel);
        (stall.spans, stall.no_stack) = (spans, no_stack);
        let usage = SegmentUsage::between(before, CpuUsage::of(stall));
        let findings =
            Findings { cause, syscall, stack: None, reason: "", advice: None, lock: None, pool: None, usage };
        self.history.examine(findings, since, elapsed, has_stack);
        // The kernel's share of the running segment may have changed without a new stack.
        explain(stall, self.history.current_mut());
        self.pending_stacks += usize::from(has_stack);
        self.accrue_until(elapsed.into(), totals);
        self.show();
    }

    /// Takes in that a stack was captured which had been requested at the latest examination.
    pub(super) fn await_late_stack(&mut self) {
        self.history.await_late_stack();
        self.pending_stacks += 1;
    }

    /// Sets a stack that was symbolized, or drops the sample, with what was found about the threads
    /// that the thread waited for.
    pub(super) fn set_stack(&mut self, sample: SampleNumber, stack: Option<Stack>, found: WaitedFor) {
        self.pending_stacks = self.pending_stacks.saturating_sub(1);
        let known = &mut self.record.stall;
        if known.certainty != Certainty::Measured
            && let Some(stack) = &stack
        {
            let outermost = stack.user_frames().last().filter(|frame| !frame.library);
            known.task_name = outermost.map(|frame| frame.name().into()).or(known.task_name.take());
        }
        self.history.set_stack(sample, stack, |findings| {
            // What was found about an earlier wait may be about another lock or pool.
            (findings.lock, findings.pool) = (found.lock, found.pool);
            explain(known, findings);
        });
        self.show();
    }

    /// Sets the tasks that have waited behind the stall, and returns those that were known before.
    pub(super) fn set_victims(&mut self, victims: Victims) -> Option<Victims> {
        self.record.version += 1;
        self.record.stall.victims.replace(victims)
    }

    /// Ends the stall.
    pub(super) fn resolve(&mut self, end: StallEnd, totals: &mut StallTotals) {
        let StallEnd { elapsed, verdict, fork } = end;
        self.history.extend(elapsed);
        self.accrue_until(elapsed.into(), totals);
        self.verdict = verdict;
        // A request whose end was not recorded lasts until it was last observed.
        self.requests.accrue(self.at, None, self.is_blamed(), totals);
        self.count(totals);
        self.blame_for_computing(totals);
        let stall = &mut self.record.stall;
        (stall.phase, stall.elapsed) = (Phase::Resolved, elapsed);
        if fork > stall.fork {
            stall.fork = fork;
            self.history.set_fork(fork.unwrap_or_default());
            explain(stall, self.history.current_mut());
        }
        self.show();
    }

    /// Counts the stall under its main cause so far, unless it is counted already.
    pub(super) fn count(&mut self, totals: &mut StallTotals) {
        let cause = self.history.times().main_cause(self.verdict);
        self.count_as(cause, totals);
    }

    fn count_as(&mut self, cause: Cause, totals: &mut StallTotals) {
        if self.counted_as.is_some() {
            return;
        }
        self.counted_as = Some(cause);
        totals.add(self.key, cause, 1, Nanos::ZERO);
        self.requests.count(cause.is_blamed(), totals);
    }

    /// Adds the time that the thread computed while it seemed to be starved to the totals of the
    /// site and the routes.
    fn blame_for_computing(&mut self, totals: &mut StallTotals) {
        if self.verdict != CpuVerdict::Computed {
            return;
        }
        let on_cpu = self.record.stall.on_cpu.unwrap_or_default();
        let computed = Nanos::from(on_cpu.saturating_sub(self.history.times().of(Cause::Cpu)));
        totals.add_site_time(self.key, self.excused.min(computed));
        self.requests.add_excused(computed, totals);
    }

    /// Records a request that alone was long enough.
    pub(super) fn record_request(&mut self, request: &BlockedRequest, totals: &mut StallTotals) {
        self.record.origin.route = Some(request.route);
        if self.record.stall.route.as_ref() != Some(&request.route_name) {
            self.record.stall.route = Some(request.route_name.clone());
        }
        let is_blamed = self.is_blamed();
        self.requests.record(request, is_blamed, totals);
        if let Some(cause) = self.counted_as {
            self.requests.count(cause.is_blamed(), totals);
        }
    }

    /// Moves the time that has passed until `now` into the totals. It belongs to the running
    /// segment. If the next examination finds that the thread had started something else before
    /// `now`, the time in between stays with the earlier cause, since totals never decrease.
    pub(super) fn accrue(&mut self, now: Nanos, totals: &mut StallTotals) {
        let mut elapsed = Nanos::from(self.record.stall.elapsed);
        // The watchdog thread may not have observed the end yet. Only if the slot still shows the
        // poll, the stall has lasted until now.
        let open_frames = self.liveness.open_frames();
        if open_frames.is_some() {
            elapsed += now.saturating_sub(self.at);
        }
        self.accrue_until(elapsed, totals);
        let is_blamed = self.is_blamed();
        self.requests.accrue(now, open_frames.as_deref(), is_blamed, totals);
    }

    /// Adds the time until the stall had lasted for `elapsed` to the running segment's cause.
    fn accrue_until(&mut self, elapsed: Nanos, totals: &mut StallTotals) {
        let growth = elapsed.saturating_sub(self.accrued);
        self.accrued += growth;
        if !self.is_blamed() {
            self.excused += growth;
        }
        totals.add(self.key, self.history.current().cause, 0, growth);
        if elapsed >= COUNTED_AFTER {
            // The cause is that of this moment, however long ago it was: it does not depend on when
            // the totals are read.
            let times = self.history.times_until(COUNTED_AFTER.to_duration());
            self.count_as(times.main_cause(self.verdict), totals);
        }
    }

    /// Returns whether the task is to blame for the running segment.
    fn is_blamed(&self) -> bool {
        self.history.current().cause.is_blamed()
    }

    /// Shows the results of one examination: of the latest one, or of the main one if the stall is
    /// over.
    fn show(&mut self) {
        let stall = &mut self.record.stall;
        let shown = match stall.phase {
            Phase::Ongoing => self.history.current().clone(),
            Phase::Resolved => {
                let cause = self.history.times().main_cause(self.verdict);
                let mut findings = self.history.main_findings(cause);
                explain(stall, &mut findings);
                findings
            }
        };
        let Findings { cause, syscall, stack, reason, advice, lock, pool, .. } = shown;
        (stall.cause, stall.syscall, stall.stack) = (cause, syscall, stack);
        (stall.reason, stall.advice, stall.lock) = (reason, advice, lock);
        stall.pool = pool;
        stall.location_changed = self.history.location_changed();
        stall.segments = self.history.segments();
        stall.merged_segments = self.history.merged();
    }
}

/// Sets the reason and the advice of an examination. `stall` is what is known besides; it is left
/// with the results of this examination.
fn explain(stall: &mut Stall, findings: &mut Findings) {
    stall.cause = findings.cause;
    stall.syscall.clone_from(&findings.syscall);
    stall.stack.clone_from(&findings.stack);
    reason::explain(stall, findings.usage.kernel_share(stall));
    // Who holds the lock says more about the remedy than the kind of the lock.
    let by_holder = findings.lock.as_ref().and_then(LockInfo::advice);
    (findings.reason, findings.advice) = (stall.reason, by_holder.or(stall.advice));
}
