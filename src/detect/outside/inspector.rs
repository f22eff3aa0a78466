//! Inspection of the workers of one scan, for the [detector](super::detector).

use std::hash::{DefaultHasher, Hash, Hasher};

use super::functions::StackRole;
use super::observation::{BlockedIn, EntryId, Inspector};
use super::workers::{ParkedStack, WorkerScan, Workers};
use crate::detect::examine::Examiner;
use crate::detect::identity::{BlockedWorker, StallIdentity};
use crate::detect::procfs::{self, SyscallState};
use crate::model::time::Nanos;

/// The number of functions, from the worker's loop inwards, that make up a location. They include
/// the type of the polled task.
const LOCATION_DEPTH: usize = 3;

/// Inspects the workers of one scan for the detector.
pub(crate) struct ThreadInspector<'a> {
    pub(crate) scan: &'a WorkerScan,
    pub(crate) workers: &'a mut Workers,
    pub(crate) examiner: &'a mut Examiner,
}

impl Inspector for ThreadInspector<'_> {
    fn blocked_in(&mut self, thread: EntryId) -> Option<BlockedIn> {
        let busy = self.scan.busy.get(&thread)?;
        let SyscallState::Waiting { call, sp, ip } = procfs::syscall(busy.tid)? else { return None };
        let mut hasher = DefaultHasher::new();
        (call, sp, ip, procfs::ran(busy.tid)).hash(&mut hasher);
        let pool = busy.pool.and_then(|pool| self.scan.pools.get(pool));
        let is_shallow = pool.is_some_and(|pool| pool.is_shallow(&busy.identity.entry, sp.get()));
        // The readings belong together only if the thread has not run since it was observed.
        let is_current = busy.identity.is_current(&busy.state);
        is_current.then(|| BlockedIn { digest: hasher.finish(), in_syscall: call.is_some(), is_shallow })
    }

    fn stack_role(&mut self, thread: EntryId) -> Option<StackRole> {
        let busy = self.scan.busy.get(&thread).filter(|busy| busy.pool.is_some())?;
        let (_, role) = self.workers.roles.of_waiting(&busy.identity.entry, self.examiner)?;
        busy.identity.is_current(&busy.state).then_some(role)
    }

    fn is_confirmed_owner(&mut self, thread: EntryId) -> bool {
        let Some(busy) = self.scan.busy.get(&thread) else { return false };
        // A current-thread runtime is observed only while its thread is proven to drive it.
        let Some(pool) = busy.pool.and_then(|pool| self.scan.pools.get(pool)) else { return true };
        pool.confirmed.get_or_init(|| self.workers.confirmed_drivers(pool, self.examiner)).contains(&thread)
    }

    fn run_delay(&mut self, thread: EntryId) -> Option<Nanos> {
        self.scan.busy.get(&thread).and_then(|busy| procfs::run_delay(busy.tid))
    }

    fn location(&mut self, thread: EntryId) -> Option<u64> {
        let busy = self.scan.busy.get(&thread)?;
        let pool = self.scan.pools.get(busy.pool?)?;
        let ParkedStack::Known(parked) = self.workers.parked_stacks.get(&pool.pool.id)? else {
            return None;
        };
        let running = BlockedWorker { cpu: None, ..busy.identity.clone() };
        let addresses = self.examiner.addresses(&busy.state, &StallIdentity::Worker(running))?;
        // Both stacks start with the worker's loop. The first difference is where the loop polls
        // instead of parking.
        let common = addresses.iter().zip(parked.iter()).take_while(|(busy, parked)| busy == parked).count();
        let task = addresses.get(common..).filter(|task| task.len() > LOCATION_DEPTH)?;
        let mut hasher = DefaultHasher::new();
        task[..LOCATION_DEPTH].hash(&mut hasher);
        Some(hasher.finish())
    }
}
