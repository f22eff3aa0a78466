//! A subscriber that blocks, logs and makes spans when it receives the event of a stall. It is the
//! subscriber of the process, so this file has one test.

use std::sync::{Arc, Mutex};

use pollwatch::Watchdog;
use tracing::{Event, Instrument, Subscriber, info_span, warn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use test_support::*;

/// A subscriber that blocks, logs and makes spans when it receives the event of a stall.
#[derive(Clone, Default)]
struct Chatty {
    watchdog: Arc<Mutex<Option<Watchdog>>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Chatty {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        if event.metadata().target() != "pollwatch::stall" {
            return;
        }
        let is_first = lock(&self.events).is_empty();
        assert!(is_first || ctx.lookup_current().is_some(), "the subscriber has left a span entered");
        assert!(event.is_root() && ctx.event_scope(event).is_none(), "the event is in none");
        struct Spans(Option<String>);
        impl tracing::field::Visit for Spans {
            fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if field.name() == "spans" {
                    self.0 = Some(value.into());
                }
            }
        }
        let mut spans = Spans(None);
        event.record(&mut spans);
        lock(&self.events).push(spans.0.unwrap_or_default());
        // Left entered on the log's thread.
        std::mem::forget(info_span!("reported", n = 1).entered());
        warn!("a stall was reported");
        // Further stalls are found while this one is being reported.
        if let Some(watchdog) = lock(&self.watchdog).clone() {
            wait_until("the watchdog continues", || watchdog.stalls().len() >= 4);
        }
    }
}

#[test]
fn a_subscriber_may_block_and_log_when_it_receives_a_stall() {
    let chatty = Chatty::default();
    let (watchdog, collected) = start_with(Watchdog::builder().threshold(THRESHOLD));
    let subscriber = tracing_subscriber::registry().with(watchdog.span_layer()).with(chatty.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the only one in this binary");
    *lock(&chatty.watchdog) = Some(watchdog.clone());
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
    collected.wait(|s| s.id == 1).expect("the stall is reported, though the log blocks");
    for id in 1..=3 {
        // Waits until the stall is found, not until it is reported.
        let (seen, before) = (watchdog.clone(), watchdog.stalls().len());
        let stalls = async move {
            wait_until("the stall is found with its span", || {
                let stalls = seen.stalls();
                let name = format!("request{{id={id}}}");
                stalls.len() > before && stalls.last().unwrap().spans.iter().map(|span| &**span).eq([&*name])
            });
        };
        runtime.block_on(watchdog.watch(stalls.instrument(info_span!("request", id))));
    }
    for id in 1..=3 {
        let name = format!("request{{id={id}}}");
        wait_until("each is logged with its span", || lock(&chatty.events).contains(&name));
    }
    drop(lock(&chatty.watchdog).take());
    let watchdog = watchdog.clone();
    within_timeout("the shutdown", move || watchdog.shutdown());
}
