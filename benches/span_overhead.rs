//! Measures the cost that the span layer adds to entering and leaving a `tracing` span, and to
//! creating one, beside the cost of the registry and of `fmt`.
//!
//! `cargo bench --bench span_overhead [-- --quick]`. Every round runs all variants. Ratios are of
//! variants in the same round, and the medians of all rounds are printed.

use std::hint::black_box;
use std::time::Instant;

use pollwatch::Watchdog;
use tracing::{Dispatch, info_span};
use tracing_subscriber::layer::SubscriberExt;

fn main() {
    let is_quick = std::env::args().any(|a| a == "--quick" || a == "--test");
    let (rounds, times) = if is_quick { (5, 1_000) } else { (101, 100_000) };
    let watchdog = Watchdog::builder().log(false).start().expect("a watchdog starts");
    let registry = tracing_subscriber::registry;
    let variants: [(&str, Dispatch); 3] = [
        ("registry", registry().into()),
        ("registry, span layer", registry().with(watchdog.span_layer()).into()),
        ("registry, fmt", registry().with(tracing_subscriber::fmt::layer().with_writer(std::io::sink)).into()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    // The spans are entered within a measured poll, like those of a task.
    let measured = watchdog.watch(async {
        for (name, work) in [("enter and exit", enter as fn(u64)), ("create, enter, exit, close", create)] {
            let mut nanos = vec![Vec::new(); variants.len()];
            for round in 0..rounds {
                for turn in 0..variants.len() {
                    let at = (turn + round) % variants.len();
                    let start = Instant::now();
                    tracing::dispatcher::with_default(&variants[at].1, || work(times));
                    nanos[at].push(start.elapsed().as_nanos() as f64 / times as f64);
                }
            }
            println!("\n{name}:\n\n| subscriber | ns | of the registry alone |\n|---|---|---|");
            for (at, (subscriber, _)) in variants.iter().enumerate() {
                let ratios = nanos[at].iter().zip(&nanos[0]).map(|(this, registry)| this / registry).collect();
                println!("| {subscriber} | {:.1} | {:.2} |", median(nanos[at].clone()), median(ratios));
            }
        }
    });
    runtime.block_on(measured);
}

fn enter(times: u64) {
    let span = info_span!("request", id = 7, path = "/report/7");
    for _ in 0..times {
        drop(black_box(&span).enter());
    }
}

fn create(times: u64) {
    for id in 0..times {
        drop(black_box(info_span!("request", id, path = "/report/7").entered()));
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
