//! Inspection of threads by their stacks, for the detector and for the engine.

mod relation;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use pollwatch_stack::procfs::SyscallState;
use pollwatch_stack::{Address, CaptureError, RawStack, Tid};

use super::cpu_budget::SamplingClock;
use super::detector::{StackFinding, StackInspector};
use super::inlined::{InlinedHandOff, InlinedHandOffs};
use super::inlined_loops::InlinedLoops;
use super::run_times::RunTimes;
use super::runtimes::RuntimeFlavor;
use super::state::AttachState;
use super::target::TargetProcess;
use super::threads::{Membership, TargetThread, entry, tid};
use crate::detect::classify::describe;
use crate::detect::outside::functions::TokioFunctions;
use crate::detect::outside::observation::EntryId;
use crate::model::cause::{Certainty, Purpose};
use crate::model::labels::CaptureOutcome;
use crate::util::lock;
use crate::util::token_bucket::{RateLimit, TokenBucket};
use relation::RuntimeRelation;

/// The limit of captures of threads that wait.
const CAPTURES: RateLimit = RateLimit { burst: 128, interval: Duration::from_millis(1) };
/// The number of calls, from the poll of the task inwards, that make up a location. They include
/// the type of the polled task.
const LOCATION_DEPTH: usize = 4;

/// A captured stack, and the state that the thread was in.
pub(super) struct CapturedSample {
    pub(super) raw: RawStack,
    pub(super) state: SyscallState,
}

/// What is kept of the stacks of the process.
pub(super) struct TargetStacks {
    pub(super) functions: TokioFunctions,
    pub(super) hand_offs: InlinedHandOffs,
    pub(super) loops: InlinedLoops,
    state: Arc<AttachState>,
    limit: TokenBucket,
    /// The latest stack of each thread that was captured in this scan.
    samples: HashMap<EntryId, CapturedSample>,
    /// True once a stack has shown the park of a current-thread runtime. Until then the compiler
    /// may have inlined it.
    park_was_visible: bool,
    /// True if a thread has entered or left a runtime since the latest scan.
    pub(super) members_changed: bool,
}

impl TargetStacks {
    pub(super) fn new(functions: TokioFunctions, hand_offs: InlinedHandOffs, state: Arc<AttachState>) -> TargetStacks {
        let limit = TokenBucket::new(CAPTURES, Duration::ZERO);
        TargetStacks {
            functions,
            hand_offs,
            loops: InlinedLoops::default(),
            state,
            limit,
            samples: HashMap::new(),
            park_was_visible: false,
            members_changed: true,
        }
    }

    /// Returns whether the stack of a thread was captured in this scan.
    pub(super) fn has_sample(&self, thread: EntryId) -> bool {
        self.samples.contains_key(&thread)
    }

    /// Returns the stack of a thread that was captured in this scan.
    pub(super) fn take_sample(&mut self, thread: EntryId) -> Option<CapturedSample> {
        self.samples.remove(&thread)
    }

    /// Drops the stacks of this scan.
    pub(super) fn forget_samples(&mut self) {
        self.samples.clear();
    }
}

/// Inspects the threads of one scan.
pub(super) struct ThreadInspection<'a> {
    pub(super) target: &'a mut dyn TargetProcess,
    pub(super) stacks: &'a mut TargetStacks,
    pub(super) threads: &'a mut HashMap<Tid, TargetThread>,
    /// Whether threads are sampled that run, or wait for short times. If not, only what waits for
    /// the threshold is inspected.
    pub(super) may_sample: bool,
    /// The CPU time that samples have taken so far.
    pub(super) sampling_cpu: Duration,
}

impl ThreadInspection<'_> {
    /// Captures the stack of a thread that waits, and records which runtime it drives. `None` if
    /// that failed, [`Unknown`](StackFinding::Unknown) if the symbols that it needs are missing.
    pub(super) fn capture_waiting(&mut self, tid: Tid, state: SyscallState) -> Option<StackFinding> {
        let stacks = &mut *self.stacks;
        if !stacks.limit.take(stacks.state.now().to_duration()) {
            stacks.state.counters.count_capture(CaptureOutcome::Limited);
            return None;
        }
        let captured = self.target.capture_waiting(tid, state);
        self.evaluate(tid, state, captured)
    }

    /// Stops a thread that runs, captures its stack, and records which runtime it drives. `None` if
    /// that failed, [`Unknown`](StackFinding::Unknown) if the symbols that it needs are missing.
    pub(super) fn capture_running(&mut self, tid: Tid) -> Option<StackFinding> {
        if !self.stacks.state.settings.stop {
            return None;
        }
        let earlier = self.threads.get(&tid).and_then(TargetThread::earlier)?;
        let Some(captured) = self.target.capture_running(tid, earlier) else {
            self.stacks.state.counters.count_capture(CaptureOutcome::Limited);
            return None;
        };
        self.evaluate(tid, SyscallState::Running, captured)
    }

    fn evaluate(
        &mut self,
        tid: Tid,
        state: SyscallState,
        captured: Result<RawStack, CaptureError>,
    ) -> Option<StackFinding> {
        self.stacks.state.counters.count_capture(CaptureOutcome::of(&captured));
        let raw = captured.ok().filter(RawStack::is_complete)?;
        let outermost_first: Vec<Address> = raw.addresses().rev().collect();
        let call = match state {
            SyscallState::Waiting { call, .. } => call,
            SyscallState::Running => None,
        };
        let purpose = call.map(|call| describe(call.number).1);
        let mut relation = self.stacks.relation(&outermost_first, purpose);
        let member = self.threads.get(&tid).and_then(|known| known.member).map(|member| member.flavor);
        match &mut relation {
            RuntimeRelation::Outside => {
                let found = self.stacks.relation_by_inlined(&raw, &outermost_first, purpose, member);
                // What was known of the thread stays.
                let Some(found) = found else { return Some(StackFinding::Unknown) };
                relation = found;
            }
            RuntimeRelation::InPoll { flavor: flavor @ RuntimeFlavor::LocalSet, .. } => {
                *flavor = self.stacks.flavor_around_local_set(&raw, &outermost_first, member);
            }
            RuntimeRelation::Idle(_) | RuntimeRelation::HandedOn | RuntimeRelation::InPoll { .. } => {}
        }
        let mut hand_off = InlinedHandOff::Absent;
        if let (SyscallState::Waiting { .. }, RuntimeRelation::InPoll { flavor: RuntimeFlavor::MultiThread, .. }) =
            (state, relation)
        {
            let poll = self.stacks.worker_poll(&outermost_first);
            hand_off = self.stacks.hand_offs.find(&raw, poll)?;
            if hand_off == InlinedHandOff::Present {
                relation = RuntimeRelation::HandedOn;
            }
        }
        self.set_member(tid, relation);
        let finding = match relation {
            RuntimeRelation::InPoll { at, .. } => {
                let mut hasher = DefaultHasher::new();
                outermost_first[at..].iter().take(LOCATION_DEPTH).for_each(|address| address.hash(&mut hasher));
                let has_handed_on = self.threads.get(&tid).is_some_and(|known| known.has_handed_on);
                let may_have = has_handed_on || hand_off == InlinedHandOff::Unknown;
                let certainty = if may_have { Certainty::Suspected } else { Certainty::Observed };
                StackFinding::InPoll { location: hasher.finish(), certainty }
            }
            RuntimeRelation::Outside if self.is_unusual_wait(state, purpose) => {
                StackFinding::InPoll { location: 0, certainty: Certainty::Suspected }
            }
            RuntimeRelation::Idle(_) | RuntimeRelation::HandedOn | RuntimeRelation::Outside => {
                StackFinding::BlocksNothing
            }
        };
        if matches!(finding, StackFinding::InPoll { .. }) {
            self.stacks.samples.insert(entry(tid), CapturedSample { raw, state });
        }
        Some(finding)
    }

    /// Inspects a thread if it waits, and has not run since the reading `times`.
    fn inspect_wait(&mut self, tid: Tid, times: Option<RunTimes>) -> StackFinding {
        let Some(state) = self.target.state(tid) else { return StackFinding::Unknown };
        let SyscallState::Waiting { call, .. } = state else { return StackFinding::Runs };
        let is_poll = call.is_some_and(|call| describe(call.number).1 == Purpose::Poll);
        if times.is_none() && is_poll {
            // A short wait for descriptors is most likely a park.
            return StackFinding::BlocksNothing;
        }
        let finding = self.capture_waiting(tid, state);
        // The readings belong together only if the thread has not run in between.
        let has_run = times.is_some() && self.target.times(tid) != times;
        finding.filter(|_| !has_run).unwrap_or(StackFinding::Unknown)
    }

    /// Returns whether a thread outside of all runtimes is to be reported, and waits for something
    /// that threads rarely wait for while they have nothing to do.
    fn is_unusual_wait(&self, state: SyscallState, purpose: Option<Purpose>) -> bool {
        let is_wait = matches!(state, SyscallState::Waiting { .. });
        self.stacks.state.settings.all_threads
            && is_wait
            && !matches!(purpose, Some(Purpose::Futex | Purpose::Poll | Purpose::Child | Purpose::Signal))
    }

    /// Records which runtime a thread drives.
    fn set_member(&mut self, tid: Tid, relation: RuntimeRelation) {
        let Some(known) = self.threads.get_mut(&tid) else { return };
        known.is_read = true;
        let all_threads = self.stacks.state.settings.all_threads;
        match relation {
            RuntimeRelation::HandedOn => known.has_handed_on = true,
            RuntimeRelation::Idle(_) | RuntimeRelation::Outside => known.has_handed_on = false,
            RuntimeRelation::InPoll { .. } => {}
        }
        let flavor = match relation {
            RuntimeRelation::Idle(flavor) | RuntimeRelation::InPoll { flavor, .. } => Some(flavor),
            RuntimeRelation::HandedOn => Some(RuntimeFlavor::MultiThread),
            RuntimeRelation::Outside => all_threads.then_some(RuntimeFlavor::OtherThreads),
        };
        // The thread of a `LocalSet` is outside of it while it waits.
        let stays =
            |member: Membership| member.flavor == RuntimeFlavor::LocalSet && relation == RuntimeRelation::Outside;
        if known.member.is_some_and(stays) || known.member.map(|member| member.flavor) == flavor {
            return;
        }
        self.stacks.members_changed = true;
        let mut runtimes = lock(&self.stacks.state.runtimes);
        runtimes.remove_thread(entry(tid));
        known.member = flavor.map(|flavor| {
            let runtime = runtimes.add(flavor, entry(tid), &known.name);
            Membership { flavor, runtime }
        });
    }
}

impl StackInspector for ThreadInspection<'_> {
    fn may_sample(&self) -> bool {
        self.may_sample
    }

    fn inspect_waiting(&mut self, thread: EntryId, times: Option<RunTimes>) -> StackFinding {
        if times.is_some() {
            return self.inspect_wait(tid(thread), times);
        }
        if !self.may_sample {
            return StackFinding::Unknown;
        }
        let start = SamplingClock::start();
        let finding = self.inspect_wait(tid(thread), times);
        self.sampling_cpu += start.elapsed();
        finding
    }

    fn waits(&mut self, thread: EntryId) -> Option<u64> {
        let start = SamplingClock::start();
        let waits = self.target.waits(tid(thread));
        self.sampling_cpu += start.elapsed();
        waits
    }

    fn is_held(&mut self, thread: EntryId) -> bool {
        self.target.is_held(tid(thread))
    }

    fn sample_running(&mut self, thread: EntryId) -> StackFinding {
        if !self.may_sample {
            return StackFinding::Unknown;
        }
        let start = SamplingClock::start();
        let finding = self.capture_running(tid(thread)).unwrap_or(StackFinding::Unknown);
        self.sampling_cpu += start.elapsed();
        finding
    }
}
