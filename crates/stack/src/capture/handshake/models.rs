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

/// Requests as `signal::copy` does. The number of checks for the answer models the time to wait.
fn ask(shared: &Shared, tid: i32, number: u64) -> Option<u64> {
    if shared.handshake.is_busy() {
        return None;
    }
    let ticket = Ticket::new(Tid::from_raw(tid), number);
    shared.asked.with_mut(|asked| unsafe { *asked = number });
    shared.handshake.request(ticket);
    if !shared.handshake.is_done() && shared.handshake.withdraw(ticket) {
        return None;
    }
    if !shared.handshake.is_done() {
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
