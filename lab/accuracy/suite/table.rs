//! The tables, as Markdown.

use std::process::Command;

use super::evaluation::{Evaluation, quantile};
use super::ground_truth::MS;
use super::incidents::{ConditionRow, IncidentFigures};
use super::kernel_time::KernelTime;
use super::late::LateFigures;
use super::locks::LockScenario;
use super::modes::UNSTABLE;
use super::overload::Overload;
use super::statements::Score;
use super::unwatched::{LONG_COMPUTATION, Unwatched};
#[cfg(all(tokio_unstable, feature = "delays"))]
use super::victims::VictimFigures;

/// Describes the machine.
pub(crate) fn machine() -> [String; 4] {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cpu = read("/proc/cpuinfo").and_then(|info| {
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let rustc = Command::new("rustc").arg("--version").output().ok();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    [
        format!("CPU: {}, {cores} cores", cpu.unwrap_or_else(unknown)),
        format!(
            "kernel: {} {}",
            std::env::consts::OS,
            read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown).trim()
        ),
        format!("compiler: {}, {}", rustc.unwrap_or_else(unknown), std::env::consts::ARCH),
        format!("mode: {}", if UNSTABLE { "tokio_unstable" } else { "stable" }),
    ]
}

fn print_table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    println!("| {} |", head.join(" | "));
    println!("|{}", "---|".repeat(head.len()));
    rows.for_each(|row| println!("| {} |", row.join(" | ")));
    println!();
}

fn share(wrong: usize, of: usize) -> String {
    match of {
        0 => "-".into(),
        _ if wrong == 0 => "100%".into(),
        _ => format!("{:.2}%", 100.0 * (of - wrong) as f64 / of as f64),
    }
}

fn score(score: Score) -> String {
    format!("{} of {}", score.wrong, score.of)
}

fn millis(nanos: u64) -> String {
    format!("{:.2} ms", nanos as f64 / MS as f64)
}

fn micros(nanos: u64) -> String {
    format!("{:.0} µs", nanos as f64 / 1e3)
}

fn at(list: &[u64], q: f64, show: fn(u64) -> String) -> String {
    match list {
        [] => "-".to_owned(),
        _ => show(quantile(list, q)),
    }
}

pub(crate) fn print(evaluations: &[(String, Evaluation)]) {
    let found = evaluations.iter().map(|(name, t)| {
        vec![
            name.clone(),
            t.polls.to_string(),
            t.blocks.to_string(),
            t.long.to_string(),
            share(t.missed, t.long),
            t.handed_on.to_string(),
            t.reports.to_string(),
            share(t.wrong + t.duplicates, t.reports),
            t.late.of.to_string(),
            share(t.late.wrong, t.late.of),
            t.excused.to_string(),
        ]
    });
    let head = [
        "mode",
        "polls",
        "blocks",
        "long",
        "recall",
        "handed on",
        "reported",
        "precision",
        "twice as long",
        "in flight",
        "excused",
    ];
    print_table(&head, found);
    let right = evaluations.iter().map(|(name, t)| {
        vec![
            name.clone(),
            at(&t.delays, 0.5, millis),
            at(&t.delays, 0.99, millis),
            at(&t.errors, 0.5, micros),
            at(&t.errors, 0.99, micros),
            at(&t.errors, 1.0, micros),
            score(t.cause),
            score(t.site),
            score(t.route),
            score(t.leaf),
            t.no_stack.to_string(),
        ]
    });
    let head = [
        "mode",
        "delay p50",
        "p99",
        "duration off p50",
        "p99",
        "max",
        "wrong cause",
        "site",
        "route",
        "leaf",
        "no stack",
    ];
    print_table(&head, right);
}

pub(crate) fn print_overload(rows: &[(String, Overload)]) {
    let rows = rows.iter().map(|(name, o)| {
        let causes: Vec<String> = o.causes.iter().map(|((who, cause), n)| format!("{who} {cause} {n}")).collect();
        vec![
            name.clone(),
            o.polls.to_string(),
            o.reports.to_string(),
            share(o.wrong, o.reports),
            o.innocent.to_string(),
            o.blamed.to_string(),
            o.guilty.to_string(),
            o.computed.to_string(),
            share(o.computed - o.computed_found, o.computed),
            o.missed.to_string(),
            causes.join(", "),
        ]
    });
    let head = [
        "mode",
        "polls",
        "reported",
        "precision",
        "innocent",
        "blamed",
        "guilty",
        "computed",
        "cpu",
        "missed",
        "causes",
    ];
    print_table(&head, rows);
}

pub(crate) fn print_kernel_time(result: &KernelTime) {
    let row = vec![
        result.blocks.to_string(),
        result.long.to_string(),
        share(result.missed, result.long),
        score(result.mode.made),
        result.mode.missing.to_string(),
        score(result.cause.made),
        score(result.leaf.made),
        result.leaf.missing.to_string(),
        score(result.page_faults.made),
    ];
    let head =
        ["blocks", "twice as long", "recall", "wrong mode", "no statement", "cause", "leaf", "no stack", "page faults"];
    print_table(&head, std::iter::once(row));
}

pub(crate) fn print_incidents(figures: &IncidentFigures) {
    let row = |row: &ConditionRow| {
        vec![
            row.kind.to_string(),
            row.long.of.to_string(),
            share(row.long.wrong, row.long.of),
            row.excused.to_string(),
            row.short.to_string(),
            row.reports.of.to_string(),
            row.reports.wrong.to_string(),
            score(row.in_time),
            score(row.starts),
            score(row.durations),
            at(&row.delays, 0.5, millis),
            at(&row.delays, 1.0, millis),
        ]
    };
    let head = [
        "kind",
        "long",
        "recall",
        "excused",
        "short",
        "reported",
        "without cause",
        "late",
        "wrong start",
        "wrong duration",
        "delay p50",
        "max",
    ];
    print_table(&head, figures.rows.iter().map(row));
    println!("ends that were not reported: {}\n", figures.not_ended);
}

#[cfg(all(tokio_unstable, feature = "delays"))]
pub(crate) fn print_victims(rows: &[(String, VictimFigures)]) {
    let percent = |ppm: u64| format!("{:.3}%", ppm as f64 / 1e4);
    let row = |(name, figures): &(String, VictimFigures)| {
        vec![
            name.clone(),
            figures.stalls.to_string(),
            figures.with_victims.of.to_string(),
            share(figures.with_victims.wrong, figures.with_victims.of),
            figures.victims.of.to_string(),
            figures.victims.wrong.to_string(),
            score(figures.found),
            percent(quantile(&figures.errors, 0.5)),
            percent(quantile(&figures.errors, 1.0)),
            figures.sites.to_string(),
            percent(figures.site_error),
        ]
    };
    let head = [
        "mode",
        "stalls",
        "with victims",
        "right number",
        "victims",
        "wrong stall",
        "missing",
        "time off p50",
        "max",
        "sites",
        "delay off max",
    ];
    print_table(&head, rows.iter().map(row));
}

pub(crate) fn print_late(rows: &[(String, LateFigures)]) {
    let row = |(name, figures): &(String, LateFigures)| {
        let ticker = if figures.floods.of > 0 { millis(figures.ticker) } else { "-".into() };
        vec![
            name.clone(),
            figures.floods.of.to_string(),
            share(figures.floods.wrong, figures.floods.of),
            figures.disturbed.to_string(),
            figures.reports.to_string(),
            figures.without_cause.to_string(),
            score(figures.users),
            format!("{:.1}", figures.share_error),
            ticker,
        ]
    };
    let head = [
        "mode",
        "floods",
        "recall",
        "disturbed",
        "reports",
        "without cause",
        "wrong users",
        "share off max",
        "ticker late min",
    ];
    print_table(&head, rows.iter().map(row));
}

pub(crate) fn print_locks(rows: &[LockScenario]) {
    let row = |row: &LockScenario| {
        let holders = row.holders;
        let counts = [row.blocks, holders.right(), row.wrong_thread(), row.wrong_nobody, holders.missing];
        let names = [row.lock.to_string(), row.holder.to_string()];
        names.into_iter().chain(counts.map(|count| count.to_string())).collect()
    };
    let head = ["lock", "held by", "blocks", "right", "wrong thread", "wrongly nobody", "no statement"];
    print_table(&head, rows.iter().map(row));
}

pub(crate) fn print_unwatched(rows: &[(String, Unwatched)]) {
    let found = rows.iter().map(|(name, u)| {
        vec![
            name.clone(),
            u.blocks.to_string(),
            u.waiting.of.to_string(),
            share(u.waiting.of - u.waiting.observed, u.waiting.of),
            share(u.waiting.of - u.waiting.observed - u.waiting.suspected, u.waiting.of),
            u.computing_blocks.of.to_string(),
            share(
                u.computing_blocks.of - u.computing_blocks.observed - u.computing_blocks.suspected,
                u.computing_blocks.of,
            ),
            u.excused.to_string(),
        ]
    });
    let computing = format!("computing ≥ {LONG_COMPUTATION} T");
    let head = ["mode", "blocks", "long waits", "observed", "or suspected", &computing, "suspected", "excused"];
    print_table(&head, found);
    let reported = rows.iter().map(|(name, u)| {
        vec![
            name.clone(),
            u.observed.reported.to_string(),
            share(u.observed.wrong, u.observed.reported),
            u.observed.repeated.to_string(),
            u.wrong_worker.to_string(),
            u.without_worker.to_string(),
            u.suspected.reported.to_string(),
            share(u.suspected.wrong, u.suspected.reported),
            u.suspected.repeated.to_string(),
            at(&u.delays, 0.5, millis),
            at(&u.delays, 0.99, millis),
            at(&u.short, 0.5, millis),
            at(&u.short, 0.99, millis),
            at(&u.short, 1.0, millis),
        ]
    });
    let head = [
        "mode",
        "observed reported",
        "precision",
        "repeated",
        "wrong index",
        "no index",
        "suspected reported",
        "precision",
        "repeated",
        "delay p50",
        "p99",
        "too short p50",
        "p99",
        "max",
    ];
    print_table(&head, reported);
}
