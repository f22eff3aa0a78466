//! The tracing spans of a stall. Every test has a subscriber of its own, on the threads that need it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pollwatch::{Phase, Stall, Watchdog};
use tokio::runtime::{Builder, Runtime};
use tracing::dispatcher::DefaultGuard;
use tracing::{Dispatch, Event, Instrument, Subscriber, debug_span, info, info_span, span, warn};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::support::*;

/// A watched runtime whose threads, and the one that made it, have a subscriber with a span layer.
struct Traced {
    watchdog: Watchdog,
    told: Told,
    runtime: Runtime,
    _default: DefaultGuard,
}

/// The span layer alone.
fn traced() -> Traced {
    traced_by(multi_thread(1), |watchdog, _| tracing_subscriber::registry().with(watchdog.span_layer()).into())
}

fn traced_by(mut builder: Builder, subscriber: impl FnOnce(&Watchdog, &Told) -> Dispatch) -> Traced {
    let (watchdog, told) = start(THRESHOLD);
    let dispatch = subscriber(&watchdog, &told);
    let _default = tracing::dispatcher::set_default(&dispatch);
    builder.on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&dispatch)));
    let built = if HOOKS {
        watchdog.build_runtime_with("main", &mut builder, pollwatch::Hooks::new())
    } else {
        builder.build()
    };
    Traced { watchdog, told, runtime: built.unwrap(), _default }
}

impl Traced {
    /// Runs a task to its end.
    #[track_caller]
    fn run<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (task, _) = spawn_seen(&self.watchdog, self.runtime.handle(), future);
        self.runtime.block_on(task).expect("the task ends")
    }
}

fn texts(stall: &Stall) -> Vec<&str> {
    stall.spans.iter().map(|s| &**s).collect()
}

/// Blocks the thread until the stall that this makes is told with just these spans. A thread that is late has its stall found
/// before it is there: the next look sees it.
#[track_caller]
fn block_until_told(told: &Told, spans: &[&str]) -> Stall {
    let stall = told.wait(|s| s.phase == Phase::Ongoing && texts(s) == spans);
    stall.unwrap_or_else(|| panic!("not told with {spans:?}: {:#?}", told.all()))
}

#[test]
fn guards_nest_with_their_fields() {
    let traced = traced();
    let told = traced.told.clone();
    let id = traced.run(async move {
        yield_once().await;
        let _request = info_span!("request", id = 7, path = "/x").entered();
        drop(info_span!("before").entered());
        let _load = info_span!("load", rows = 3).entered();
        block_until_told(&told, &[r#"request{id=7 path="/x"}"#, "load{rows=3}"]).id
    });
    let end = traced.told.wait(|s| s.id == id && s.phase == Phase::Resolved).expect("it ends");
    assert_eq!(texts(&end), [r#"request{id=7 path="/x"}"#, "load{rows=3}"], "the last ones that were seen");
    let text = end.to_string();
    assert!(text.lines().nth(1).unwrap().ends_with(r#" · span request{id=7 path="/x"} › load{rows=3}"#), "{text}");
    let json = serde_json::to_value(&end).unwrap();
    assert_eq!(json["spans"][1], "load{rows=3}");
    let kept = traced.watchdog.stalls().into_iter().find(|s| s.id == id).expect("it is kept");
    assert_eq!(kept.spans, end.spans);
}

#[test]
fn instrumented_futures() {
    let traced = traced();
    let told = traced.told.clone();
    let inner = async move {
        yields(3).await;
        block_until_told(&told, &["outer{id=1}", "inner"]);
    };
    let outer = async move {
        yields(2).await;
        async { yields(2).await }.instrument(info_span!("before")).await;
        inner.instrument(info_span!("inner")).await;
    };
    traced.run(outer.instrument(info_span!("outer", id = 1)));
}

/// A stall is told with the spans of its latest look, with what was recorded by then.
#[test]
fn later_looks_tell_later_spans() {
    let traced = traced();
    let told = traced.told.clone();
    traced.run(async move {
        let request = info_span!("request", user = tracing::field::Empty, n = 1).entered();
        block_until_told(&told, &["request{n=1}"]);
        let inner = info_span!("inner").entered();
        request.record("user", "u").record("n", 22);
        block_until_told(&told, &[r#"request{user="u" n=22}"#, "inner"]);
        drop((inner, request));
        block_until_told(&told, &[]);
        let _other = info_span!("other").entered();
        block_until_told(&told, &["other"]);
    });
}

#[test]
fn spans_left_in_any_order() {
    let traced = traced();
    let told = traced.told.clone();
    traced.run(async move {
        let spans = [info_span!("a"), info_span!("b", it = "is longer"), info_span!("c")];
        let [a, b, c] = &spans;
        let (in_a, in_b, in_c) = (a.enter(), b.enter(), c.enter());
        drop(in_a);
        block_until_told(&told, &[r#"b{it="is longer"}"#, "c"]);
        let in_b_again = b.enter();
        let in_a = a.enter();
        block_until_told(&told, &[r#"b{it="is longer"}"#, "c", "a"]);
        drop(in_b);
        drop(in_b_again);
        block_until_told(&told, &["c", "a"]);
        drop(in_c);
        drop(in_a);
        // One of them by a clone, which is the same span.
        drop(a.clone().entered());
        let _in_a = a.enter();
        block_until_told(&told, &["a"]);
    });
}

#[test]
fn deeper_than_told() {
    const DEEP: usize = 40;
    let traced = traced();
    let told = traced.told.clone();
    traced.run(async move {
        let mut entered: Vec<_> = (0..DEEP).map(|n| info_span!("level", n).entered()).collect();
        let names: Vec<_> = (0..DEEP).map(|n| format!("level{{n={n}}}")).collect();
        let first = |n: usize| names[..n].iter().map(String::as_str);
        block_until_told(&told, &first(16).chain(["… 24 more"]).collect::<Vec<_>>());
        // From the midst of those that are not told, then the outermost.
        drop(entered.remove(30));
        drop(entered.remove(0));
        block_until_told(&told, &first(16).skip(1).chain(["… 23 more"]).collect::<Vec<_>>());
        while entered.len() > 2 {
            entered.pop();
        }
        block_until_told(&told, &first(3).skip(1).collect::<Vec<_>>());
        // More than can be told apart.
        for n in 0..1_000 {
            entered.push(info_span!("level", n).entered());
        }
        while entered.len() > 1 {
            entered.pop();
        }
        block_until_told(&told, &first(2).skip(1).collect::<Vec<_>>());
    });
}

/// A value cannot write lines of its own into the log, or fill it.
#[test]
fn hostile_values() {
    let traced = traced();
    let told = traced.told.clone();
    traced.run(async move {
        let long = "🦀".repeat(10_000);
        let value = "x\nstall #9 ongoing\x1b[2J";
        let _hostile = info_span!("hostile", %value, long).entered();
        let stall = told.wait(|s| s.spans.len() == 1).expect("it is told");
        let text = &*stall.spans[0];
        assert!(
            text.starts_with(r"hostile{value=x\nstall #9 ongoing\u{1b}[2J long=") && text.ends_with("🦀…}"),
            "{text}"
        );
        assert!(text.len() <= 184, "{}", text.len());
        assert!(!stall.to_string().contains(value) && !stall.to_string().contains("\nstall"), "{stall}");
    });
}

/// Tasks of one runtime, each in a span of its own whenever it is polled, and stalling in turn.
#[test]
fn each_task_has_its_own() {
    const TASKS: u64 = 12;
    let Traced { watchdog, told, runtime, _default } =
        traced_by(multi_thread(2), |watchdog, _| tracing_subscriber::registry().with(watchdog.span_layer()).into());
    let tasks: Vec<_> = (0..TASKS)
        .map(|id| {
            let told = told.clone();
            let request = async move {
                yields(3).await;
                let me = tokio::task::try_id();
                let name = format!("request{{id={id}}}");
                told.wait(|s| s.task == me && texts(s) == [&name]).expect("it is told");
                yields(3).await;
            };
            spawn_seen(&watchdog, runtime.handle(), request.instrument(info_span!("request", id))).0
        })
        .collect();
    let ids: Vec<_> = tasks.iter().map(|task| task.id()).collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    for stall in told_so_far(&watchdog, &told) {
        let own = ids.iter().position(|id| Some(*id) == stall.task).expect("one of them");
        assert!(stall.spans.iter().all(|s| **s == *format!("request{{id={own}}}")), "{stall}");
    }
}

/// A guard that is held across an await leaves its span entered for whatever is polled next.
#[test]
fn a_span_left_behind_is_not_its_neighbours() {
    let (watchdog, told) = start(THRESHOLD);
    let dispatch: Dispatch = tracing_subscriber::registry().with(watchdog.span_layer()).into();
    let _default = tracing::dispatcher::set_default(&dispatch);
    let runtime = current_thread().build().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let local = tokio::task::LocalSet::new();
    let end = done.clone();
    let leave_behind = async move {
        let _across_an_await = info_span!("left behind", id = 1).entered();
        while !end.load(Ordering::Relaxed) {
            yield_once().await;
        }
    };
    let heard = told.clone();
    let stalls = async move {
        yields(2).await;
        block_until_told(&heard, &[]);
        let _own = info_span!("own", id = 2).entered();
        block_until_told(&heard, &["own{id=2}"]);
        done.store(true, Ordering::Relaxed);
    };
    // Once where the poll is seen by pollwatch, once where only tokio knows of it.
    let seen = watchdog.watch(leave_behind);
    let unseen = async {
        let _across_an_await = info_span!("left behind", id = 3).entered();
        yields(1_000).await;
    };
    let tasks = [local.spawn_local(seen), local.spawn_local(unseen), local.spawn_local(watchdog.watch(stalls))];
    runtime.block_on(local.run_until(async {
        for task in tasks {
            task.await.unwrap();
        }
    }));
    let all = told_so_far(&watchdog, &told);
    assert!(all.iter().all(|s| !s.to_string().contains("left behind")), "{all:#?}");
}

/// As a log line's.
#[test]
fn spans_around_a_poll_are_told() {
    let (watchdog, told) = start(THRESHOLD);
    let dispatch: Dispatch = tracing_subscriber::registry().with(watchdog.span_layer()).into();
    let _default = tracing::dispatcher::set_default(&dispatch);
    // Around the first poll of this thread, and before it was known to have any.
    let _main = info_span!("main").entered();
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    let heard = told.clone();
    runtime.block_on(watchdog.watch(async move {
        let _inner = info_span!("inner").entered();
        block_until_told(&heard, &["main", "inner"]);
    }));
    let heard = told.clone();
    let part = async move { drop(block_until_told(&heard, &["main", "around{id=1}"])) };
    let task = runtime.spawn(watchdog.watch(part).instrument(info_span!("around", id = 1)));
    runtime.block_on(task).unwrap();
}

/// Above, beneath, and with filters of one's own.
#[test]
fn beside_filters_and_fmt() {
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
        let told = traced.told.clone();
        traced.run(async move {
            let request = info_span!("request", id = 7, user = tracing::field::Empty).entered();
            let _hidden = debug_span!("hidden").entered();
            request.record("user", 1);
            let _inner = info_span!("inner").entered();
            info!("an event");
            block_until_told(&told, &["request{id=7 user=1}", "inner"]);
        });
    }
    // A filter of fmt's alone hides nothing here.
    let traced = traced_by(multi_thread(1), |watchdog, _| {
        Registry::default().with(fmt().with_filter(LevelFilter::INFO)).with(watchdog.span_layer()).into()
    });
    let told = traced.told.clone();
    traced.run(async move {
        let _request = info_span!("request").entered();
        let _debug = debug_span!("debug").entered();
        block_until_told(&told, &["request", "debug"]);
    });
}

/// A layer that blocks where it is called, until the stall that this makes is told with these spans.
struct Blocks {
    told: Told,
    spans: &'static [&'static str],
}

impl Blocks {
    fn block(&self) {
        block_until_told(&self.told, self.spans);
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
        // With whatever could be held.
        let span = ctx.lookup_current().expect("there is one");
        let parent = span.parent();
        let _locked = (span.extensions_mut(), parent.as_ref().map(|parent| parent.extensions_mut()));
        self.block();
    }
}

/// The stall in a layer is found while it lasts, whatever the layer holds.
#[test]
fn a_layer_that_blocks() {
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
        // It comes first.
        (&["outer"], false, || drop(info_span!("blocks when entered").entered())),
        (&["outer"], true, || drop(info_span!("blocks when left").entered())),
        (&["outer"], true, || drop(info_span!("blocks when made"))),
    ];
    for (spans, is_above, run) in cases {
        let traced = traced_by(multi_thread(1), |watchdog, told| {
            let blocks = Blocks { told: told.clone(), spans };
            if is_above {
                Registry::default().with(watchdog.span_layer()).with(blocks).into()
            } else {
                Registry::default().with(blocks).with(watchdog.span_layer()).into()
            }
        });
        let told = traced.told.clone();
        traced.run(async move {
            let outer = info_span!("outer").entered();
            run();
            drop(outer);
            yield_once().await;
            // All is balanced after that.
            block_until_told(&told, &[]);
        });
    }
}

/// A layer that panics, in a value or by itself, and locks that it has poisoned: as without pollwatch.
#[test]
fn a_layer_that_panics() {
    struct Panics;
    impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Panics {
        fn on_record(&self, id: &span::Id, _: &span::Record<'_>, ctx: Context<'_, S>) {
            let span = ctx.span(id).expect("it is there");
            let _locked = span.extensions_mut();
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    let traced =
        traced_by(multi_thread(1), |watchdog, _| Registry::default().with(Panics).with(watchdog.span_layer()).into());
    let told = traced.told.clone();
    traced.run(async move {
        let _outer = info_span!("outer").entered();
        let poisoned = info_span!("poisoned", a = 1);
        let record = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            poisoned.record("a", 2);
        }));
        assert!(record.is_err());
        let _poisoned = poisoned.enter();
        block_until_told(&told, &["outer", "poisoned"]);
    });
}

/// What a subscriber does with a stall's event: blocks, logs, makes spans.
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
        let _entered = info_span!("told", n = 1).entered();
        warn!("a stall was told");
        // Further stalls are found while this one is being told.
        if let Some(watchdog) = lock(&self.watchdog).clone() {
            wait_until("the watchdog goes on", || watchdog.stalls().len() >= 4);
        }
    }
}

#[test]
fn a_subscriber_that_blocks_and_logs_when_a_stall_is_told() {
    let chatty = Chatty::default();
    let told = Told::default();
    let keep = told.keep();
    let dispatch: Arc<Mutex<Option<Dispatch>>> = Arc::default();
    let for_callback = dispatch.clone();
    // The teller logs to the global subscriber, which is another test's: its thread is given one of its own here.
    let callback = move |stall: &Stall| {
        if let Some(dispatch) = lock(&for_callback).take() {
            std::mem::forget(tracing::dispatcher::set_default(&dispatch));
            std::mem::forget(info_span!("left entered on the teller's thread").entered());
        }
        keep(stall);
    };
    let watchdog = Watchdog::builder().threshold(THRESHOLD).on_stall(callback).start().unwrap();
    let subscriber: Dispatch = tracing_subscriber::registry().with(watchdog.span_layer()).with(chatty.clone()).into();
    // With one dispatcher alone, tracing asks the thread's own one whether it ever wants an event: the teller has none yet.
    let _second = Dispatch::new(Registry::default());
    *lock(&dispatch) = Some(subscriber.clone());
    *lock(&chatty.watchdog) = Some(watchdog.clone());
    let _default = tracing::dispatcher::set_default(&subscriber);
    let runtime = watchdog.build_runtime("main", &mut current_thread()).unwrap();
    runtime.block_on(watchdog.watch(async { block(THRESHOLD * 2) }));
    // From its next report on, the subscriber is there; it may be the end of this one.
    told.wait(|s| s.id == 1).expect("it is told");
    for id in 1..=3 {
        // Until it is found, not told.
        let (seen, before) = (watchdog.clone(), watchdog.stalls().len());
        let stalls = async move {
            wait_until("it is found with its span", || {
                let stalls = seen.stalls();
                let name = format!("request{{id={id}}}");
                // The first telling waits for all: later looks of these are in the book all the same.
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
    let teller = watchdog.clone();
    in_time("it stops", move || teller.shutdown());
}
