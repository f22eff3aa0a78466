//! The time of a stall by cause and location. Pure.

use std::time::Duration;

use crate::report::findings::{Findings, is_same_function};

/// The time that a stall spent with one cause at one location.
#[derive(Debug)]
pub(super) struct LocationTime {
    pub(super) findings: Findings,
    pub(super) time: Duration,
}

/// Adds time to the sum of a cause and location. The latest findings with a stack are kept, and the
/// usage of the segment with the most CPU time.
pub(super) fn add_location_time(sums: &mut Vec<LocationTime>, findings: &Findings, time: Duration) {
    let is_same = |sum: &&mut LocationTime| {
        let known = &sum.findings;
        known.cause == findings.cause
            && match (&known.stack, &findings.stack) {
                (Some(known), Some(stack)) => is_same_function(known, stack),
                (None, None) => known.reason == findings.reason,
                _ => false,
            }
    };
    match sums.iter_mut().find(is_same) {
        Some(sum) => {
            sum.time += time;
            let usage = sum.findings.usage;
            sum.findings.clone_from(findings);
            if usage.on_cpu() > findings.usage.on_cpu() {
                sum.findings.usage = usage;
            }
        }
        None => sums.push(LocationTime { findings: findings.clone(), time }),
    }
}
