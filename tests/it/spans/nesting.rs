//! Tests that a stall has the spans that its own poll has entered, as of the latest scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pollwatch::Phase;
use tracing::{Dispatch, Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;

use super::{Traced, block_until_reported, texts, traced, traced_by};
use test_support::*;

#[test]
fn nested_guards_are_reported_with_their_fields() {
    let traced = traced();
    let collected = traced.collected.clone();
    let id = traced.run(async move {
        yield_once().await;
        let _request = info_span!("request", id = 7, path = "/x").entered();
        drop(info_span!("before").entered());
        let _load = info_span!("load", rows = 3).entered();
        block_until_reported(&collected, &[r#"request{id=7 path="/x"}"#, "load{rows=3}"]).id
    });
    let end = traced.collected.wait(|s| s.id == id && s.phase == Phase::Resolved).expect("the stall ends");
    assert_eq!(texts(&end), [r#"request{id=7 path="/x"}"#, "load{rows=3}"], "the last ones of the latest scan");
    let text = end.to_string();
    assert!(text.lines().nth(1).unwrap().ends_with(r#" · span request{id=7 path="/x"} › load{rows=3}"#), "{text}");
    let json = serde_json::to_value(&end).unwrap();
    assert_eq!(json["spans"][1], "load{rows=3}");
    let kept = traced.watchdog.stalls().into_iter().find(|s| s.id == id).expect("the stall is kept");
    assert_eq!(kept.spans, end.spans);
}

#[test]
fn instrumented_futures_are_reported_with_their_spans() {
    let traced = traced();
    let collected = traced.collected.clone();
    let inner = async move {
        yields(3).await;
        block_until_reported(&collected, &["outer{id=1}", "inner"]);
    };
    let outer = async move {
        yields(2).await;
        async { yields(2).await }.instrument(info_span!("before")).await;
        inner.instrument(info_span!("inner")).await;
    };
    traced.run(outer.instrument(info_span!("outer", id = 1)));
}

/// A stall is reported with the spans of its latest scan, and with the values recorded by then.
#[test]
fn each_scan_reports_the_current_spans() {
    let traced = traced();
    let collected = traced.collected.clone();
    traced.run(async move {
        let request = info_span!("request", user = tracing::field::Empty, n = 1).entered();
        block_until_reported(&collected, &["request{n=1}"]);
        let inner = info_span!("inner").entered();
        request.record("user", "u").record("n", 22);
        block_until_reported(&collected, &[r#"request{user="u" n=22}"#, "inner"]);
        drop((inner, request));
        block_until_reported(&collected, &[]);
        let _other = info_span!("other").entered();
        block_until_reported(&collected, &["other"]);
    });
}

#[test]
fn spans_may_be_left_in_any_order() {
    let traced = traced();
    let collected = traced.collected.clone();
    traced.run(async move {
        let spans = [info_span!("a"), info_span!("b", it = "is longer"), info_span!("c")];
        let [a, b, c] = &spans;
        let (in_a, in_b, in_c) = (a.enter(), b.enter(), c.enter());
        drop(in_a);
        block_until_reported(&collected, &[r#"b{it="is longer"}"#, "c"]);
        let in_b_again = b.enter();
        let in_a = a.enter();
        block_until_reported(&collected, &[r#"b{it="is longer"}"#, "c", "a"]);
        drop(in_b);
        drop(in_b_again);
        block_until_reported(&collected, &["c", "a"]);
        drop(in_c);
        drop(in_a);
        // One of them is entered by a clone, which is the same span.
        drop(a.clone().entered());
        let _in_a = a.enter();
        block_until_reported(&collected, &["a"]);
    });
}

#[test]
fn spans_deeper_than_the_limit_are_counted() {
    const DEEP: usize = 40;
    let traced = traced();
    let collected = traced.collected.clone();
    traced.run(async move {
        let mut entered: Vec<_> = (0..DEEP).map(|n| info_span!("level", n).entered()).collect();
        let names: Vec<_> = (0..DEEP).map(|n| format!("level{{n={n}}}")).collect();
        let first = |n: usize| names[..n].iter().map(String::as_str);
        block_until_reported(&collected, &first(16).chain(["… 24 more"]).collect::<Vec<_>>());
        // Leaves one from the middle of the unreported spans, then the outermost.
        drop(entered.remove(30));
        drop(entered.remove(0));
        block_until_reported(&collected, &first(16).skip(1).chain(["… 23 more"]).collect::<Vec<_>>());
        while entered.len() > 2 {
            entered.pop();
        }
        block_until_reported(&collected, &first(3).skip(1).collect::<Vec<_>>());
        // These are more spans than can be distinguished.
        for n in 0..1_000 {
            entered.push(info_span!("level", n).entered());
        }
        while entered.len() > 1 {
            entered.pop();
        }
        block_until_reported(&collected, &first(2).skip(1).collect::<Vec<_>>());
    });
}

/// A value cannot add lines to the log or fill it.
#[test]
fn values_are_escaped_and_bounded() {
    let traced = traced();
    let collected = traced.collected.clone();
    traced.run(async move {
        let long = "🦀".repeat(10_000);
        let value = "x\nstall #9 ongoing\x1b[2J";
        let _span = info_span!("untrusted", %value, long).entered();
        let stall = collected.wait(|s| s.spans.len() == 1).expect("the stall is reported");
        let text = &*stall.spans[0];
        assert!(
            text.starts_with(r"untrusted{value=x\nstall #9 ongoing\u{1b}[2J long=") && text.ends_with("🦀…}"),
            "{text}"
        );
        assert!(text.len() <= 184, "{}", text.len());
        assert!(!stall.to_string().contains(value) && !stall.to_string().contains("\nstall"), "{stall}");
    });
}

/// Tasks of one runtime stall in turn, each inside a span whenever it is polled.
#[test]
fn each_task_has_its_own_spans() {
    const TASKS: u64 = 12;
    let Traced { watchdog, collected, runtime, _default } =
        traced_by(multi_thread(2), |watchdog, _| tracing_subscriber::registry().with(watchdog.span_layer()).into());
    let tasks: Vec<_> = (0..TASKS)
        .map(|id| {
            let collected = collected.clone();
            let request = async move {
                yields(3).await;
                let me = tokio::task::try_id();
                let name = format!("request{{id={id}}}");
                collected.wait(|s| s.task == me && texts(s) == [&name]).expect("the stall is reported");
                yields(3).await;
            };
            spawn_measured(&watchdog, runtime.handle(), request.instrument(info_span!("request", id))).0
        })
        .collect();
    let ids: Vec<_> = tasks.iter().map(|task| task.id()).collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    for stall in reported_so_far(&watchdog, &collected) {
        let own = ids.iter().position(|id| Some(*id) == stall.task).expect("one of them");
        assert!(stall.spans.iter().all(|s| **s == *format!("request{{id={own}}}")), "{stall}");
    }
}

/// A guard held across an await leaves its span entered for the task that is polled next.
#[test]
fn a_span_left_entered_is_not_attributed_to_the_next_task() {
    let (watchdog, collected) = start(THRESHOLD);
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
    let observer = collected.clone();
    let stalls = async move {
        yields(2).await;
        block_until_reported(&observer, &[]);
        let _own = info_span!("own", id = 2).entered();
        block_until_reported(&observer, &["own{id=2}"]);
        done.store(true, Ordering::Relaxed);
    };
    // Once where pollwatch sees the poll, once where only tokio knows of it.
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
    let all = reported_so_far(&watchdog, &collected);
    assert!(all.iter().all(|s| !s.to_string().contains("left behind")), "{all:#?}");
}

/// A span around a poll is reported, as it is in a log line.
#[test]
fn spans_around_a_poll_are_reported() {
    let (watchdog, collected) = start(THRESHOLD);
    let dispatch: Dispatch = tracing_subscriber::registry().with(watchdog.span_layer()).into();
    let _default = tracing::dispatcher::set_default(&dispatch);
    // Around the first poll of this thread, and before the thread is known to have any.
    let _main = info_span!("main").entered();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let observer = collected.clone();
    runtime.block_on(watchdog.watch(async move {
        let _inner = info_span!("inner").entered();
        block_until_reported(&observer, &["main", "inner"]);
    }));
    let observer = collected.clone();
    let part = async move { drop(block_until_reported(&observer, &["main", "around{id=1}"])) };
    let task = runtime.spawn(watchdog.watch(part).instrument(info_span!("around", id = 1)));
    runtime.block_on(task).unwrap();
}
