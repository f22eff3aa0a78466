use std::time::{Duration, Instant};

use super::*;

fn tid(raw: i32) -> Tid {
    Tid::from_raw(raw)
}

fn waiting() -> Option<SyscallState> {
    Some(SyscallState::Waiting { call: None, sp: Default::default(), ip: Default::default() })
}

/// Returns the reading of threads with these states, of which those that cannot be read exist or
/// not.
fn reading(states: &[Option<SyscallState>], exists: bool) -> DriverReading {
    let threads: Vec<Tid> = (0..states.len()).map(|index| tid(index as i32 + 1)).collect();
    read_threads(&threads, |tid| states[tid.as_raw() as usize - 1], |_| exists, |_| false)
}

#[test]
fn a_thread_that_exists_and_cannot_be_read_may_be_in_the_driver() {
    let unreadable = [waiting(), None, Some(SyscallState::Running)];
    assert_eq!(reading(&unreadable, true), DriverReading::Unknown(UnknownReason::ThreadUnreadable));
    assert_eq!(reading(&unreadable, false), DriverReading::Unattended { running: vec![tid(3)] }, "it has ended");
    let not_dumpable = [None, None, Some(SyscallState::Running)];
    assert_eq!(reading(&not_dumpable, true), DriverReading::Unknown(UnknownReason::NoThreadReadable));
    let found = read_threads(&[tid(1), tid(2)], |it| waiting().filter(|_| it == tid(2)), |_| true, |it| it.is_some());
    assert_eq!(found, DriverReading::Attended(tid(2)), "whatever the other one does");
}

#[test]
fn a_worker_that_published_meanwhile_may_have_been_in_the_driver() {
    let unattended = reading(&[waiting()], false);
    assert_eq!((unattended.state(false), unattended.state(true)), (DriverState::Unattended, DriverState::Unknown));
    assert_eq!(DriverReading::Attended(tid(1)).state(true), DriverState::Attended);
}

/// Waits until a condition holds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_thread_exists_until_it_has_ended() {
    assert!(exists(Tid::current().unwrap()));
    let ended = std::thread::spawn(|| Tid::current().unwrap()).join().unwrap();
    // The kernel removes a thread soon after `join` returns.
    wait_until("the thread is removed", || !exists(ended));
}

/// A thread that waits for events within a poll does not wait in the driver of its runtime.
#[test]
fn a_descriptor_is_learned_between_polls_only() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        send.send(Tid::current().unwrap()).unwrap();
        runtime.block_on(async { drop(ended.await) });
    });
    let tid = receive.recv().unwrap();
    let slot = Slot::new();
    wait_until("the thread waits", || waited_on_between_polls(tid, Some(&slot)).is_some());
    assert_eq!(waited_on_between_polls(tid, None), waited_on_between_polls(tid, Some(&slot)));
    slot.push(1, 1, 0, None);
    assert_eq!(waited_on_between_polls(tid, Some(&slot)), None);
    slot.pop();
    assert!(waited_on_between_polls(tid, Some(&slot)).is_some());
    drop(end);
    thread.join().unwrap();
}
