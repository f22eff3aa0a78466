use super::*;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The handshake and the data that it guards: the requester writes `asked`, the handler `answered`.
/// loom reports an access that is not ordered after the other side's last one.
struct Shared {
    handshake: Handshake<AtomicU64>,
    asked: UnsafeCell<u64>,
    answered: UnsafeCell<u64>,
}

/// Requests as `signal::request` does. The number of checks for the answer models the time to wait.
fn ask(shared: &Shared, tid: i32, number: u64) -> Option<u64> {
    if shared.handshake.is_busy() {
        return None;
    }
    let ticket = Ticket::new(Tid::from_raw(tid), number);
    shared.asked.with_mut(|asked| unsafe { *asked = number });
    shared.handshake.request(ticket);
    if !shared.handshake.is_done(ticket) && shared.handshake.withdraw(ticket) {
        return None;
    }
    if !shared.handshake.is_done(ticket) {
        // The thread hangs in its handler.
        return None;
    }
    let answer = shared.answered.with(|answered| unsafe { *answered });
    shared.handshake.close();
    Some(answer)
}

/// Answers as `signal::handler::answer` does on thread `tid`.
fn handle(shared: &Shared, tid: u64) -> Option<u64> {
    let ticket = shared.handshake.claim(tid)?;
    let asked = shared.asked.with(|asked| unsafe { *asked });
    shared.answered.with_mut(|answered| unsafe { *answered = tid << 32 | asked });
    shared.handshake.answer(ticket);
    Some(asked)
}

/// Models two requests, the second to thread `second`, while the signals of both arrive at any
/// time: early, late, or after the end. Calls `observe` with the answers of each order of
/// execution.
fn model(second: i32, observe: impl Fn([Option<u64>; 2]) + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    let observe = Arc::new(observe);
    model.check(move || {
        let shared = loom::sync::Arc::new(Shared {
            handshake: Handshake::new(AtomicU64::new(IDLE)),
            asked: UnsafeCell::new(0),
            answered: UnsafeCell::new(0),
        });
        let handler = |tid: u64, signals: usize| {
            let shared = shared.clone();
            thread::spawn(move || {
                for _ in 0..signals {
                    let asked = handle(&shared, tid);
                    assert!(asked.is_none_or(|asked| asked > 1 || tid == 7), "a request to another thread was taken");
                }
            })
        };
        // On one thread handlers run one after the other: their signal is blocked meanwhile.
        let handlers = if second == 7 { vec![handler(7, 2)] } else { vec![handler(7, 1), handler(second as u64, 1)] };
        let answers = [ask(&shared, 7, 1), ask(&shared, second, 2)];
        for (answer, (tid, number)) in answers.iter().zip([(7, 1), (second as u64, 2)]) {
            assert!(
                answer.is_none_or(|answer| answer == tid << 32 | number),
                "the answer to another request: {answers:x?}"
            );
        }
        observe(answers);
        handlers.into_iter().for_each(|handler| handler.join().unwrap());
        assert!(!shared.handshake.is_busy(), "a handler that claims a request answers it");
    });
}

/// Checks the model, and that every combination of answers occurred in some order of execution. A
/// model in which one never occurs would prove nothing.
fn check(second: i32) {
    let seen = Arc::new([const { AtomicU32::new(0) }; 4]);
    model(second, {
        let seen = seen.clone();
        move |answers| {
            let [first, second] = answers.map(|answer| usize::from(answer.is_some()));
            seen[first * 2 + second].fetch_add(1, Relaxed);
        }
    });
    let seen = seen.each_ref().map(|count| count.load(Relaxed));
    assert!(seen.iter().all(|count| *count > 0), "none, the second, the first, both: {seen:?}");
}

#[test]
fn a_late_handler_takes_no_other_threads_request() {
    check(8);
}

#[test]
fn a_request_is_answered_once_and_whole() {
    check(7);
}

/// Two requests: one that may stay pending, and one that is waited for meanwhile. `word` models
/// what a request refers to, which its requester drops once no handler can read it any more.
struct TwoRequests {
    requests: [Shared; 2],
    words: [UnsafeCell<u64>; 2],
}

/// The end of a pending request.
#[derive(Clone, Copy)]
enum End {
    Collected,
    Withdrawn,
    /// It was dropped while its handler ran.
    Abandoned,
}

impl TwoRequests {
    fn new() -> TwoRequests {
        let request = || Shared {
            handshake: Handshake::new(AtomicU64::new(IDLE)),
            asked: UnsafeCell::new(0),
            answered: UnsafeCell::new(0),
        };
        TwoRequests { requests: [request(), request()], words: [UnsafeCell::new(7), UnsafeCell::new(8)] }
    }

    /// Drops what a request refers to.
    fn free(&self, index: usize) {
        self.words[index].with_mut(|word| unsafe { *word = 0 });
    }

    /// Answers as `signal::handler::answer` does on thread `tid`: the first request to it.
    fn handle(&self, tid: u64) {
        let claim = |index: usize| Some((index, self.requests[index].handshake.claim(tid)?));
        let Some((index, ticket)) = (0..2).find_map(claim) else { return };
        let request = &self.requests[index];
        let word = self.words[index].with(|word| unsafe { *word });
        assert_eq!(word, tid, "a request to another thread, or one that was given up");
        request.answered.with_mut(|answered| unsafe { *answered = word });
        request.handshake.answer(ticket);
    }

    /// Ends a pending request as `signal::Pending` does: takes its answer, or withdraws it.
    fn end(&self, ticket: Ticket) -> End {
        let Shared { handshake, answered, .. } = &self.requests[0];
        if handshake.is_done(ticket) {
            assert_eq!(answered.with(|answered| unsafe { *answered }), 7);
            handshake.close();
        } else if handshake.withdraw(ticket) {
            self.free(0);
            return End::Withdrawn;
        } else if handshake.is_done(ticket) {
            handshake.close();
        } else {
            return End::Abandoned;
        }
        self.free(0);
        End::Collected
    }
}

#[test]
fn a_pending_request_refers_to_nothing_after_its_end() {
    let ends = Arc::new([const { AtomicU32::new(0) }; 3]);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check({
        let ends = ends.clone();
        move || {
            let shared = loom::sync::Arc::new(TwoRequests::new());
            let pending = Ticket::new(Tid::from_raw(7), 1);
            shared.requests[0].handshake.request(pending);
            let handlers = [7, 8].map(|tid| {
                let shared = shared.clone();
                thread::spawn(move || shared.handle(tid))
            });
            // Another thread is captured while the first request is pending.
            let other = Ticket::new(Tid::from_raw(8), 2);
            let handshake = &shared.requests[1].handshake;
            handshake.request(other);
            if handshake.is_done(other) || handshake.withdraw(other) {
                handshake.close();
                shared.free(1);
            }
            let end = shared.end(pending);
            ends[end as usize].fetch_add(1, Relaxed);
            // What was abandoned is freed as soon as its handler is no longer busy.
            if matches!(end, End::Abandoned) && !shared.requests[0].handshake.is_busy() {
                shared.free(0);
            }
            handlers.into_iter().for_each(|handler| handler.join().unwrap());
        }
    });
    let ends = ends.each_ref().map(|count| count.load(Relaxed));
    assert!(ends.iter().all(|count| *count > 0), "collected, withdrawn, abandoned: {ends:?}");
}
