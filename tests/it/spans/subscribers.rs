//! Tests of the span layer beside others: filters, layers that block or panic, and subscribers that
//! receive stalls.

use pollwatch::Watchdog;
use tracing::{Dispatch, Event, Subscriber, debug_span, info, info_span, span, warn};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::{block_until_reported, traced_by};
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
