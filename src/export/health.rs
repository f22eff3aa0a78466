//! The check behind `/healthz`: a runtime is unhealthy when all of its workers are blocked.

use std::time::Duration;

use crate::model::activity::BlockedWorkers;
use crate::model::stall::Millis;

/// Returns one line for each runtime whose workers have all been blocked for longer than `limit`.
pub(super) fn unhealthy_runtimes(runtimes: &[BlockedWorkers], limit: Duration) -> Vec<String> {
    let unhealthy = |runtime: &BlockedWorkers| {
        let shortest = *runtime.blocked_for.iter().min()?;
        let all_blocked = runtime.blocked_for.len() >= runtime.workers && shortest > limit;
        all_blocked.then(|| {
            let (workers, name) = (runtime.blocked_for.len(), &runtime.runtime);
            format!("all {workers} workers of {name:?} are blocked, for {} or longer", Millis(shortest))
        })
    };
    runtimes.iter().filter_map(unhealthy).collect()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn runtime(workers: usize, millis: &[u64]) -> BlockedWorkers {
        let blocked_for = millis.iter().copied().map(Duration::from_millis).collect();
        BlockedWorkers { runtime: "main".into(), workers, blocked_for }
    }

    #[test]
    fn only_a_runtime_without_a_free_worker_is_unhealthy() {
        let limit = Duration::from_millis(100);
        let runtimes = [runtime(2, &[900]), runtime(2, &[900, 100]), runtime(2, &[]), runtime(1, &[101])];
        let lines = unhealthy_runtimes(&runtimes, limit);
        assert_eq!(lines, ["all 1 workers of \"main\" are blocked, for 101 ms or longer"]);
    }
}
