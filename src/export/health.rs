//! Whether all workers of a runtime are blocked.

use crate::measure::runtime::OTHER;
use crate::model::stall::Millis;
use crate::watchdog::WatchdogState;

/// One line for each runtime that has had all its workers blocked for longer than the limit.
pub(crate) fn complaints(shared: &WatchdogState) -> Vec<String> {
    let limit = u64::try_from(shared.config.unhealthy_after.as_nanos()).unwrap_or(u64::MAX);
    let mut complaints = Vec::new();
    for runtime in shared.meter.runtimes.all() {
        let Some(metrics) = runtime.metrics().filter(|_| runtime.id != OTHER) else { continue };
        let blocked = shared.blocked_workers(&runtime);
        let shortest = blocked.iter().map(|b| b.elapsed.0).min().unwrap_or(0);
        if blocked.len() >= metrics.num_workers() && shortest > limit {
            let time = Millis(std::time::Duration::from_nanos(shortest));
            complaints.push(format!(
                "all {} workers of {:?} are blocked, for {time} or longer",
                blocked.len(),
                runtime.name
            ));
        }
    }
    complaints
}
