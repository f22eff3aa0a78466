use super::*;
use crate::measure::entry::spans::during_poll;
use crate::measure::entry::spans::layer::SpanLayer;
use crate::measure::thread::slot::{FrameKind, FrameTag};
use crate::model::time::Nanos;
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt;

/// Runs `f` on a new thread, whose subscriber is a span layer.
fn on_a_thread(f: impl FnOnce(Arc<Meter>) + Send + 'static) -> Arc<Meter> {
    let meter = Meter::of(Nanos::from_millis(10), 10);
    let subscriber = tracing_subscriber::registry().with(SpanLayer::new(&meter));
    let for_thread = meter.clone();
    let body = || tracing::subscriber::with_default(subscriber, || f(for_thread));
    std::thread::spawn(body).join().expect("the thread does not panic");
    meter
}

/// A measured thread and the number of a poll's frame on it.
type PushedPoll = (Arc<ThreadState>, FrameNumber);

/// Pushes the frame of a poll of the task 7 on this thread.
fn push_poll(meter: &Arc<Meter>) -> PushedPoll {
    let handle = thread::local_handle(meter).expect("a thread");
    let tag = FrameTag { kind: FrameKind::Task, runtime: crate::model::id::RuntimeId::OTHER, route: None, index: 0 };
    let number = handle.state.slot.push(1, tag.pack().0, 7, None);
    (handle.state.clone(), number)
}

fn texts(state: &ThreadState, poll: FrameNumber) -> Vec<String> {
    during_poll(state, poll).iter().map(|text| text.to_string()).collect()
}

/// Pool threads enter spans, and so may the report thread, whose subscriber is the user's.
#[test]
fn spans_alone_do_not_make_a_thread_measured() {
    on_a_thread(|meter| {
        let before = info_span!("before").entered();
        assert!(meter.threads().is_empty() && thread::registered_state(meter.id).is_none());
        let (state, number) = push_poll(&meter);
        assert_eq!(texts(&state, number), ["before"], "published as soon as there is a poll");
        let inside = info_span!("inside").entered();
        assert_eq!(texts(&state, number), ["before", "inside"]);
        drop(before);
        assert_eq!(texts(&state, number), ["inside"]);
        drop(inside);
        assert_eq!(texts(&state, number), [""; 0]);
    });
}

#[test]
fn leftover_spans_are_removed_after_their_poll() {
    on_a_thread(|meter| {
        let around = info_span!("around").entered();
        let (state, outer) = push_poll(&meter);
        let left: Vec<_> = (0..100).map(|n| info_span!("left", n).entered()).collect();
        let inner = push_poll(&meter).1;
        let nested = info_span!("nested").entered();
        assert_eq!((texts(&state, outer), texts(&state, inner).len()), (texts(&state, inner), 17));
        drop(nested);
        state.slot.pop();
        state.slot.pop();
        let next = push_poll(&meter).1;
        let own = info_span!("own").entered();
        assert_eq!(texts(&state, next), ["around", "own"]);
        drop(left);
        drop(around);
        assert_eq!(texts(&state, next), ["own"]);
        drop(own);
        assert_eq!(texts(&state, next), [""; 0]);
        state.slot.pop();
        // One forgotten span in each of many polls.
        for _ in 0..1_000 {
            let (state, number) = push_poll(&meter);
            std::mem::forget(info_span!("forgotten").entered());
            assert_eq!(texts(&state, number), ["forgotten"]);
            state.slot.pop();
        }
        with(meter.id, |spans| assert!(spans.slot.len() == 1 && spans.excess.is_empty()));
    });
}

#[test]
fn spans_of_other_tasks_are_excluded() {
    on_a_thread(|meter| {
        push_span(&meter, "task 8", EnteredDuring::Task(TaskBits(8)));
        push_span(&meter, "task 7", EnteredDuring::Task(TaskBits(7)));
        push_span(&meter, "no task", EnteredDuring::NoTask);
        let (state, poll) = push_poll(&meter);
        assert_eq!(texts(&state, poll), ["task 7", "no task"]);
    });
}

fn push_span(meter: &Arc<Meter>, name: &str, during: EnteredDuring) {
    drop(info_span!("creates the slot").entered());
    with(meter.id, |spans| {
        let key = SpanKey { layer: 0, span: spans.slot.len() as u64 };
        assert!(spans.slot.push(key, during, &SpanText::new(name)));
    });
}

/// Spans are entered and exited while the thread's memory is destroyed.
#[test]
fn spans_during_the_end_of_a_thread() {
    struct AtExit(Option<tracing::span::EnteredSpan>);
    impl Drop for AtExit {
        fn drop(&mut self) {
            drop(self.0.take());
            let _ = info_span!("at exit").entered();
        }
    }
    thread_local! {
        static AT_EXIT: RefCell<AtExit> = const { RefCell::new(AtExit(None)) };
    }
    for _ in 0..2 {
        let meter = on_a_thread(|meter| {
            // The order in which thread-locals are destroyed is not specified: both must work.
            AT_EXIT.with_borrow_mut(|it| it.0 = Some(info_span!("early").entered()));
            let (_, number) = push_poll(&meter);
            assert_ne!(number, FrameNumber::NONE);
        });
        assert!(meter.threads().is_empty(), "the thread has ended");
    }
}

/// Two watchdogs, each with a layer, in two registries whose spans have the same ids.
#[test]
fn watchdogs_and_registries_do_not_mix_their_spans() {
    on_a_thread(|meter| {
        let _first = info_span!("first").entered();
        let other = Meter::of(Nanos::from_millis(10), 10);
        let both = tracing_subscriber::registry().with(SpanLayer::new(&other)).with(SpanLayer::new(&meter));
        tracing::subscriber::with_default(both, || {
            let second = info_span!("second", n = tracing::field::Empty).entered();
            let [(state, number), (other_state, other_number)] = [push_poll(&meter), push_poll(&other)];
            second.record("n", 2);
            assert_eq!(texts(&state, number), ["first", "second{n=2}"]);
            assert_eq!(texts(&other_state, other_number), ["second{n=2}"]);
            drop(second);
            assert_eq!((texts(&state, number), texts(&other_state, other_number)), (vec!["first".into()], vec![]));
        });
    });
}
