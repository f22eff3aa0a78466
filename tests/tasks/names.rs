//! Tests that the names of `tokio::task::Builder` are shown with the stalls of the tasks. tokio
//! publishes them in its own spans, with its feature `tracing` and `tokio_unstable`.

#![cfg(tokio_unstable)]

use pollwatch::Stall;
use test_support::*;
use tracing::{Instrument, info_span};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt};

/// Returns the stall of a task that blocks, with a subscriber for its runtime's threads.
fn stall_of(filter: &str, spawn: impl Fn(&tokio::runtime::Handle)) -> Stall {
    let mut found = None;
    undisturbed(|| {
        let (watchdog, collected) = start(THRESHOLD);
        let layer = watchdog.span_layer().with_filter(EnvFilter::new(filter));
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink).with_filter(LevelFilter::INFO);
        let subscriber = tracing_subscriber::registry().with(layer).with(log);
        // One worker, on this thread, which has the subscriber.
        let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            spawn(runtime.handle());
            runtime.block_on(yields(10));
        });
        let stalls = reported_so_far(&watchdog, &collected);
        match stalls.iter().find(|stall| stall.on_cpu.is_some()) {
            Some(stall) => {
                found = Some(stall.clone());
                Ok(())
            }
            None => Err(format!("no stall was found while it lasted: {stalls:#?}")),
        }
    });
    found.expect("a stall")
}

fn spawn_named(name: &str) -> impl Fn(&tokio::runtime::Handle) {
    move |handle| {
        let work = async { block(THRESHOLD * 8) }.instrument(info_span!("import", id = 7));
        let _task = tokio::task::Builder::new().name(name).spawn_on(work, handle).unwrap();
    }
}

#[test]
fn a_stall_has_the_name_of_its_task() {
    let stall = stall_of("info,tokio::task=trace", spawn_named("ingest \"x\""));
    assert_eq!(stall.task_name.as_deref(), Some("ingest \"x\""), "{stall}");
    assert_eq!(stall.spans, ["import{id=7}".into()], "tokio's own span is not one of the user's");
    let task = stall.task.unwrap();
    assert!(stall.to_string().contains(&format!("task {task} \"ingest \\\"x\\\"\" spawned at ")), "{stall}");
}

#[test]
fn a_long_name_is_truncated() {
    let name = "n".repeat(1_000);
    let stall = stall_of("info,tokio::task=trace", spawn_named(&name));
    let shown = stall.task_name.expect("a name");
    assert!(name.starts_with(shown.trim_end_matches('…')) && (100..200).contains(&shown.len()), "{shown}");
}

#[test]
fn a_task_without_a_name_has_none() {
    let spawn = |handle: &tokio::runtime::Handle| drop(handle.spawn(async { block(THRESHOLD * 8) }));
    let stall = stall_of("info,tokio::task=trace", spawn);
    assert_eq!((stall.task_name.as_deref(), &stall.spans[..]), (None, &[][..]), "{stall}");
}

#[test]
fn a_name_is_unknown_where_the_spans_of_tokio_are_filtered_out() {
    let stall = stall_of("info", spawn_named("ingest"));
    assert_eq!(stall.task_name, None, "{stall}");
    assert_eq!(stall.spans, ["import{id=7}".into()]);
}
