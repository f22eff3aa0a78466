//! The tables at the end: the latencies that clients saw, and the stalls that pollwatch found.

use std::collections::HashMap;
use std::time::Duration;

use pollwatch::{Site, Snapshot};

use crate::load::Outcome;

/// The stalls of one site in one phase.
pub(crate) struct Stalls {
    pub(crate) site: Site,
    pub(crate) count: u64,
    pub(crate) time: Duration,
}

/// The result of putting one route under load.
pub(crate) struct Phase {
    pub(crate) route: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) stalls: Vec<Stalls>,
}

/// Returns the stalls between two snapshots by site, the site with the most time first.
pub(crate) fn stalls_between(before: &Snapshot, after: &Snapshot) -> Vec<Stalls> {
    let known: HashMap<_, _> = before.sites.iter().map(|s| ((&s.runtime, s.site), s.stalls)).collect();
    let since = |s: &pollwatch::snapshot::SiteSnapshot| {
        let old = known.get(&(&s.runtime, s.site)).copied().unwrap_or_default();
        Stalls { site: s.site, count: s.stalls.count - old.count, time: s.stalls.time - old.time }
    };
    let mut stalls: Vec<_> = after.sites.iter().map(since).filter(|s| s.count > 0).collect();
    stalls.sort_by_key(|s| std::cmp::Reverse(s.time));
    stalls
}

pub(crate) fn print(phases: &[Phase], threshold: Duration, workers: usize) {
    println!("\nwhat clients saw                                                  a /ping meanwhile");
    println!("{:<20}{:>12}{:>11}{:>11}{:>15}{:>11}", "route", "requests/s", "p50", "p99", "p50", "p99");
    for Phase { route, outcome, .. } in phases {
        let rate = outcome.route.count() as f64 / outcome.took.as_secs_f64();
        let [p50, p99] = [0.50, 0.99].map(|q| text(outcome.route.quantile(q)));
        let [ping50, ping99] = [0.50, 0.99].map(|q| text(outcome.ping.quantile(q)));
        println!("{route:<20}{rate:>12.0}{p50:>11}{p99:>11}{ping50:>15}{ping99:>11}");
    }

    println!("\nwhat pollwatch found: stalls, polls that kept a worker for {} or longer", text(threshold));
    println!("{:<20}{:>12}{:>11}    their task was spawned at", "route", "stalls", "blocked");
    for Phase { route, stalls, .. } in phases {
        if stalls.is_empty() {
            println!("{route:<20}{:>12}", 0);
        }
        for (i, Stalls { site, count, time }) in stalls.iter().enumerate() {
            let route = if i == 0 { *route } else { "" };
            println!("{route:<20}{count:>12}{:>11}    {}", text(*time), short_site(site));
        }
    }

    if phases.iter().any(|p| p.route.ends_with("/fixed") && !p.stalls.is_empty()) {
        println!("(Stalls at a fixed route usually mean that its worker got no CPU. Try it on an idle machine.)");
    }

    let scrapes: usize = phases.iter().map(|p| p.outcome.scrape.count()).sum();
    let slowest = phases.iter().map(|p| p.outcome.scrape.quantile(1.0)).max().unwrap_or_default();
    let blocked = phases.iter().map(|p| p.outcome.blocked_workers).max().unwrap_or(0);
    println!(
        "\n/metrics answered {scrapes} times meanwhile, at the slowest after {}, and showed up to {blocked} of {workers} workers \
         blocked at once.",
        text(slowest)
    );
}

/// A site, without the folder of cargo's registry.
fn short_site(site: &Site) -> String {
    let site = site.to_string();
    let dependency = site.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    dependency.map_or(site.clone(), |(_, file)| file.to_owned())
}

/// A duration in about three digits.
fn text(duration: Duration) -> String {
    match duration.as_secs_f64() * 1e3 {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1e3),
    }
}
