use super::*;
use crate::measure::entry::spans::layer::SpanLayer;
use crate::measure::entry::spans::of_poll;
use crate::measure::thread::slot::{FrameKind, FrameTag};
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt;

/// Runs `f` on a thread of its own, with a span layer as its subscriber.
fn on_a_thread(f: impl FnOnce(Arc<Meter>) + Send + 'static) -> Arc<Meter> {
    let meter = Meter::of(10_000_000, 10);
    let subscriber = tracing_subscriber::registry().with(SpanLayer::new(&meter));
    let for_thread = meter.clone();
    let body = || tracing::subscriber::with_default(subscriber, || f(for_thread));
    std::thread::spawn(body).join().expect("it ends");
    meter
}

fn begin(meter: &Arc<Meter>) -> (Arc<ThreadState>, FrameNumber) {
    let tied = thread::attached(meter).expect("a thread");
    let number = tied.state.slot.push(
        1,
        FrameTag { kind: FrameKind::Task, runtime: crate::model::id::RuntimeId::OTHER, route: None, index: 0 }.pack().0,
        7,
        None,
    );
    (tied.state.clone(), number)
}

fn told(state: &ThreadState, number: FrameNumber) -> Vec<String> {
    of_poll(state, number).iter().map(|text| text.to_string()).collect()
}

/// Neither the teller, whose subscriber may make spans, nor a pool's threads become threads to watch by that.
#[test]
fn spans_alone_do_not_make_a_thread_a_measured_one() {
    on_a_thread(|meter| {
        let before = info_span!("before").entered();
        assert!(meter.threads().is_empty() && thread::known(meter.id).is_none());
        let (state, number) = begin(&meter);
        assert_eq!(told(&state, number), ["before"], "known as soon as there is a poll");
        let inside = info_span!("inside").entered();
        assert_eq!(told(&state, number), ["before", "inside"]);
        drop(before);
        assert_eq!(told(&state, number), ["inside"]);
        drop(inside);
        assert_eq!(told(&state, number), [""; 0]);
    });
}

#[test]
fn what_a_poll_left_behind_goes_with_it() {
    on_a_thread(|meter| {
        let around = info_span!("around").entered();
        let (state, outer) = begin(&meter);
        let left: Vec<_> = (0..100).map(|n| info_span!("left", n).entered()).collect();
        let inner = begin(&meter).1;
        let nested = info_span!("nested").entered();
        assert_eq!((told(&state, outer), told(&state, inner).len()), (told(&state, inner), 17));
        drop(nested);
        state.slot.pop();
        state.slot.pop();
        let next = begin(&meter).1;
        let own = info_span!("own").entered();
        assert_eq!(told(&state, next), ["around", "own"]);
        drop(left);
        drop(around);
        assert_eq!(told(&state, next), ["own"]);
        drop(own);
        assert_eq!(told(&state, next), [""; 0]);
        state.slot.pop();
        // Forgotten for good, in one poll after the other.
        for _ in 0..1_000 {
            let (state, number) = begin(&meter);
            std::mem::forget(info_span!("forgotten").entered());
            assert_eq!(told(&state, number), ["forgotten"]);
            state.slot.pop();
        }
        with(meter.id, |here| assert!(here.slot.len() == 1 && here.deep.is_empty()));
    });
}

#[test]
fn what_another_task_entered_is_not_told() {
    on_a_thread(|meter| {
        with_here(&meter, Place { poll: 0, task: 8 });
        with_here(&meter, Place { poll: 0, task: 7 });
        with_here(&meter, Place { poll: 0, task: 0 });
        let (state, number) = begin(&meter);
        assert_eq!(told(&state, number), ["7", "0"]);
    });
}

fn with_here(meter: &Arc<Meter>, place: Place) {
    drop(info_span!("there is a slot").entered());
    with(meter.id, |here| {
        let key = Key { layer: 0, span: place.task };
        assert!(here.slot.push(key, place, &Text::new(&place.task.to_string())));
    });
}

/// Spans that are entered and left while the thread's own memory is destroyed.
#[test]
fn a_thread_that_is_being_destroyed() {
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
            // Destroyed in the reverse order of their first use, or not: both must do.
            AT_EXIT.with_borrow_mut(|it| it.0 = Some(info_span!("early").entered()));
            let (_, number) = begin(&meter);
            assert!(number > FrameNumber::NONE);
        });
        assert!(meter.threads().is_empty(), "it is gone");
    }
}

/// Two watchdogs, each with a layer, in two registries whose spans have the same ids.
#[test]
fn watchdogs_and_registries_are_told_apart() {
    on_a_thread(|meter| {
        let _first = info_span!("first").entered();
        let other = Meter::of(10_000_000, 10);
        let both = tracing_subscriber::registry().with(SpanLayer::new(&other)).with(SpanLayer::new(&meter));
        tracing::subscriber::with_default(both, || {
            let second = info_span!("second", n = tracing::field::Empty).entered();
            let [(state, number), (other_state, other_number)] = [begin(&meter), begin(&other)];
            second.record("n", 2);
            assert_eq!(told(&state, number), ["first", "second{n=2}"]);
            assert_eq!(told(&other_state, other_number), ["second{n=2}"]);
            drop(second);
            assert_eq!((told(&state, number), told(&other_state, other_number)), (vec!["first".into()], vec![]));
        });
    });
}
