//! Recall and precision, by the number of workers, with an idle and a busy pool.

use std::collections::BTreeMap;

use attach_lab::accuracy::Run;
use attach_lab::matching::{Found, Outcome};
use attach_lab::truth::Kind;

use crate::Options;

/// Prints the tables. An error says which bar is missed.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let mut missed = Vec::new();
    let mut total = BTreeMap::new();
    let truth = std::env::temp_dir().join(format!("attach-truth-{}", std::process::id()));
    println!(
        "| target | long waits | observed | suspected | missed | excused | observed stalls | false | suspected stalls | false |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let workers = options.workers.map_or(1..=4, |workers| workers..=workers);
    for (workers, is_pool_busy) in workers.flat_map(|workers| [(workers, false), (workers, true)]) {
        let run = Run {
            target: &options.target,
            pollwatch: &options.pollwatch,
            truth: &truth,
            workers,
            is_pool_busy,
            time: options.seconds,
            threshold: options.threshold,
            seed: options.seed,
            arguments: &options.arguments,
        };
        let outcome = run.compare();
        // The file is in the directory for temporary files, and may be gone.
        let _ = std::fs::remove_file(&truth);
        let outcome = outcome?;
        let name = format!("{workers} workers, pool {}", if is_pool_busy { "busy" } else { "idle" });
        print_row(&name, &outcome);
        missed.extend(missed_bars(&outcome).into_iter().map(|bar| format!("{name}: {bar}")));
        if options.is_verbose {
            outcome.faults.iter().for_each(|fault| eprintln!("{name}: {fault}"));
        }
        for (kind, found) in outcome.kinds {
            add(total.entry(kind).or_default(), &found);
        }
    }
    print_kinds(&total);
    if missed.is_empty() { Ok(()) } else { Err(format!("bars missed:\n{}", missed.join("\n"))) }
}

/// Returns what is found of all blocks that wait.
fn waits(outcome: &Outcome) -> Found {
    let mut sum = Found::default();
    outcome.kinds.iter().filter(|(kind, _)| kind.waits()).for_each(|(_, found)| add(&mut sum, found));
    sum
}

/// Returns a description of each bar that a run misses.
fn missed_bars(outcome: &Outcome) -> Vec<String> {
    let Found { long, observed, .. } = waits(outcome);
    let mut missed = Vec::new();
    if observed < long {
        missed.push(format!("{} of {long} long waits were not reported as observed", long - observed));
    }
    if outcome.false_observed > 0 {
        missed.push(format!("{} of {} observed stalls are false", outcome.false_observed, outcome.observed));
    }
    missed
}

fn print_row(name: &str, outcome: &Outcome) {
    let Found { long, observed, suspected, excused, new_thread, .. } = waits(outcome);
    let (missed, excused) = (long - observed - suspected, excused + new_thread);
    let (observed_stalls, false_observed) = (outcome.observed, outcome.false_observed);
    let (suspected_stalls, false_suspected) = (outcome.suspected, outcome.false_suspected);
    println!(
        "| {name} | {long} | {observed} | {suspected} | {missed} | {excused} | {observed_stalls} | \
         {false_observed} | {suspected_stalls} | {false_suspected} |"
    );
}

fn print_kinds(kinds: &BTreeMap<Kind, Found>) {
    println!(
        "\n| kind | long | observed | suspected | missed | excused | new thread | observed stalls | no stack | wrong function | wrong line | wrong time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (kind, found) in kinds {
        let Found { long, observed, suspected, excused, new_thread, .. } = found;
        let Found { reports, no_stack, wrong_function, wrong_line, wrong_time, .. } = found;
        let missed = long - observed - suspected;
        println!(
            "| {} | {long} | {observed} | {suspected} | {missed} | {excused} | {new_thread} | {reports} | {no_stack} | \
             {wrong_function} | {wrong_line} | {wrong_time} |",
            kind.as_str()
        );
    }
}

fn add(sum: &mut Found, found: &Found) {
    sum.long += found.long;
    sum.observed += found.observed;
    sum.suspected += found.suspected;
    sum.excused += found.excused;
    sum.new_thread += found.new_thread;
    sum.reports += found.reports;
    sum.no_stack += found.no_stack;
    sum.wrong_function += found.wrong_function;
    sum.wrong_line += found.wrong_line;
    sum.wrong_time += found.wrong_time;
}
