//! Tests of the span layer beside others: filters, layers that block or panic, and subscribers that
//! receive stalls.

use std::sync::{Arc, Mutex};

use pollwatch::{Stall, Watchdog};
use tracing::{Dispatch, Event, Instrument, Subscriber, debug_span, info, info_span, span, warn};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::{block_until_reported, texts, traced_by};
use test_support::*;

/// The span layer above and beneath others, and with filters of its own.
#[test]
fn spans_are_reported_beside_filters_and_fmt() {
    fn fmt<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
        tracing_subscriber::fmt::layer().with_span_events(FmtSpan::FULL).with_writer(std::io::sink)
    }
    let info = || EnvFilter::new("info");
    let variants: [fn(&Watchdog) -> Dispatch; 6] = [
        |w| tracing_subscriber::registry().with(EnvFilter::new("info")).with(fmt()).with(w.span_layer()).into(),
        |w| tracing_subscriber::registry().with(w.span_layer()).with(fmt()).with(EnvFilter::new("info")).into(),
        |w| tracing_subscriber::registry().with(fmt()).with(EnvFilter::new("info")).with(w.span_layer()).into(),
        |w| Registry::default().with(fmt()).with(w.span_layer().with_filter(LevelFilter::INFO)).into(),
        |w| {
            Registry::default()
                .with(w.span_layer().with_filter(EnvFilter::new("info")))
                .with(fmt().with_filter(LevelFilter::TRACE))
                .into()
        },
        // Two of them.
        |w| Registry::default().with(w.span_layer()).with(EnvFilter::new("info")).with(w.span_layer()).into(),
    ];
    drop(info());
    for subscriber in variants {
        let traced = traced_by(multi_thread(1), |watchdog, _| subscriber(watchdog));
        let collected = traced.collected.clone();
        traced.run(async move {
            let request = info_span!("request", id = 7, user = tracing::field::Empty).entered();
            let _hidden = debug_span!("hidden").entered();
            request.record("user", 1);
            let _inner = info_span!("inner").entered();
            info!("an event");
            block_until_reported(&collected, &["request{id=7 user=1}", "inner"]);
        });
    }
    // A filter of the fmt layer alone hides nothing here.
    let traced = traced_by(multi_thread(1), |watchdog, _| {
        Registry::default().with(fmt().with_filter(LevelFilter::INFO)).with(watchdog.span_layer()).into()
    });
    let collected = traced.collected.clone();
    traced.run(async move {
        let _request = info_span!("request").entered();
        let _debug = debug_span!("debug").entered();
        block_until_reported(&collected, &["request", "debug"]);
    });
}

/// A layer that blocks in one of its methods until the stall is reported with these spans.
struct Blocks {
    collected: CollectedStalls,
    spans: &'static [&'static str],
}

impl Blocks {
    fn block(&self) {
        block_until_reported(&self.collected, self.spans);
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Blocks {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "blocks when made" {
            self.block();
        }
    }

    fn on_enter(&self, id: &span::Id, ctx: Context<'_, S>) {
        if ctx.metadata(id).is_some_and(|meta| meta.name() == "blocks when entered") {
            self.block();
        }
    }

    fn on_exit(&self, id: &span::Id, ctx: Context<'_, S>) {
        if ctx.metadata(id).is_some_and(|meta| meta.name() == "blocks when left") {
            self.block();
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        if event.metadata().target() != "blocks" {
            return;
        }
        // With every span that could be held.
        let span = ctx.lookup_current().expect("there is one");
        let parent = span.parent();
        let _locked = (span.extensions_mut(), parent.as_ref().map(|parent| parent.extensions_mut()));
        self.block();
    }
}

/// A stall inside a layer is found while it lasts, whatever lock the layer holds.
#[test]
fn a_layer_that_blocks_is_reported() {
    type Case = (&'static [&'static str], bool, fn());
    let cases: [Case; 6] = [
        (&["outer", "inner"], true, || {
            let _inner = info_span!("inner").entered();
            warn!(target: "blocks", "now");
        }),
        (&["outer", "inner"], false, || {
            let _inner = info_span!("inner").entered();
            warn!(target: "blocks", "now");
        }),
        (&["outer", "blocks when entered"], true, || drop(info_span!("blocks when entered").entered())),
        // This layer comes first.
        (&["outer"], false, || drop(info_span!("blocks when entered").entered())),
        (&["outer"], true, || drop(info_span!("blocks when left").entered())),
        (&["outer"], true, || drop(info_span!("blocks when made"))),
    ];
    for (spans, is_above, run) in cases {
        let traced = traced_by(multi_thread(1), |watchdog, collected| {
            let blocks = Blocks { collected: collected.clone(), spans };
            if is_above {
                Registry::default().with(watchdog.span_layer()).with(blocks).into()
            } else {
                Registry::default().with(blocks).with(watchdog.span_layer()).into()
            }
        });
        let collected = traced.collected.clone();
        traced.run(async move {
            let outer = info_span!("outer").entered();
            run();
            drop(outer);
            yield_once().await;
            // All spans are balanced after that.
            block_until_reported(&collected, &[]);
        });
    }
}

/// A layer that panics, and the locks that it poisons, behave as they do without pollwatch.
#[test]
fn a_layer_that_panics_behaves_as_without_pollwatch() {
    struct Panics;
    impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Panics {
        fn on_record(&self, id: &span::Id, _: &span::Record<'_>, ctx: Context<'_, S>) {
            let span = ctx.span(id).expect("the span exists");
            let _locked = span.extensions_mut();
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    let traced =
        traced_by(multi_thread(1), |watchdog, _| Registry::default().with(Panics).with(watchdog.span_layer()).into());
    let collected = traced.collected.clone();
    traced.run(async move {
        let _outer = info_span!("outer").entered();
        let poisoned = info_span!("poisoned", a = 1);
        let record = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            poisoned.record("a", 2);
        }));
        assert!(record.is_err());
        let _poisoned = poisoned.enter();
        block_until_reported(&collected, &["outer", "poisoned"]);
    });
}

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
        assert!(ctx.lookup_current().is_some(), "the callback has left a span entered");
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
        let _entered = info_span!("reported", n = 1).entered();
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
    let collected = CollectedStalls::default();
    let keep = collected.callback();
    let dispatch: Arc<Mutex<Option<Dispatch>>> = Arc::default();
    let for_callback = dispatch.clone();
    // The reporting thread logs to the global subscriber, which belongs to another test, so it gets
    // its own one here.
    let callback = move |stall: &Stall| {
        if let Some(dispatch) = lock(&for_callback).take() {
            std::mem::forget(tracing::dispatcher::set_default(&dispatch));
            std::mem::forget(info_span!("left entered on the watchdog's thread").entered());
        }
        keep(stall);
    };
    let watchdog = Watchdog::builder().threshold(THRESHOLD).on_stall(callback).start().unwrap();
    let subscriber: Dispatch = tracing_subscriber::registry().with(watchdog.span_layer()).with(chatty.clone()).into();
    // With a single dispatcher tracing caches the interest of the thread's own one, and the
    // reporting thread has none yet.
    let _second = Dispatch::new(Registry::default());
    *lock(&dispatch) = Some(subscriber.clone());
    *lock(&chatty.watchdog) = Some(watchdog.clone());
    let _default = tracing::dispatcher::set_default(&subscriber);
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
    // The subscriber is set from the next report on, which may be the end of this stall.
    collected.wait(|s| s.id == 1).expect("the stall is reported");
    for id in 1..=3 {
        // Waits until the stall is found, not until it is reported.
        let (seen, before) = (watchdog.clone(), watchdog.stalls().len());
        let stalls = async move {
            wait_until("the stall is found with its span", || {
                let stalls = seen.stalls();
                let name = format!("request{{id={id}}}");
                // The first report delays all others, but their later scans are stored.
                stalls.len() > before && texts(stalls.last().unwrap()) == [&name]
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
