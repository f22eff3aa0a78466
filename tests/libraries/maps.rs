//! Situations of concurrent maps and channels of libraries.

use dashmap::DashMap;
use pollwatch::Cause;

use crate::fixture::{Expected, Situation, check, leak, not_the_last_call};

fn lock(reason: &'static str, advice: &'static str, function: &'static str) -> Expected {
    Expected { cause: Cause::Lock, syscalls: &["futex"], reason, advice, function }
}

#[inline(never)]
fn inserts(map: &DashMap<u8, u8>) {
    map.insert(1, 2); // blocks here
    not_the_last_call();
}

#[inline(never)]
fn gets(map: &DashMap<u8, u8>) -> u8 {
    *map.get(&1).unwrap() // blocks here
}

#[test]
fn a_shard_that_is_read_is_diagnosed() {
    check(lock("a shard of a DashMap", "before an .await", "maps::inserts"), || {
        let map = leak(DashMap::from_iter([(1, 1)]));
        let held = map.get(&1).unwrap();
        Situation::new(|| inserts(map), || drop(held))
    });
}

#[test]
fn a_shard_that_is_written_is_diagnosed() {
    check(lock("a shard of a DashMap", "before an .await", "maps::gets"), || {
        let map = leak(DashMap::from_iter([(1, 1)]));
        let held = map.get_mut(&1).unwrap();
        Situation::new(|| assert_eq!(gets(map), 1), || drop(held))
    });
}

#[inline(never)]
fn sends(sender: &crossbeam_channel::Sender<u8>) {
    sender.send(2).unwrap(); // blocks here
}

#[inline(never)]
fn receives(receiver: &crossbeam_channel::Receiver<u8>) -> u8 {
    receiver.recv().unwrap() // blocks here
}

#[test]
fn a_full_channel_is_diagnosed() {
    let (reason, advice) = ("a send into a full blocking channel", "tokio::sync::mpsc");
    check(lock(reason, advice, "maps::sends"), || {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        sender.send(1).unwrap();
        Situation::new(move || sends(&sender), move || assert_eq!(receiver.iter().count(), 2))
    });
}

#[test]
fn an_empty_channel_is_diagnosed() {
    let (reason, advice) = ("a receive from a blocking channel", "tokio::sync::mpsc");
    check(lock(reason, advice, "maps::receives"), || {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        Situation::new(move || assert_eq!(receives(&receiver), 1), move || sender.send(1).unwrap())
    });
}

#[inline(never)]
fn sends_by_flume(sender: &flume::Sender<u8>) {
    sender.send(2).unwrap(); // blocks here
}

#[inline(never)]
fn receives_by_flume(receiver: &flume::Receiver<u8>) -> u8 {
    receiver.recv().unwrap() // blocks here
}

#[test]
fn a_full_channel_of_flume_is_diagnosed() {
    let (reason, advice) = ("a send into a full blocking channel", "tokio::sync::mpsc");
    check(lock(reason, advice, "maps::sends_by_flume"), || {
        let (sender, receiver) = flume::bounded(1);
        sender.send(1).unwrap();
        Situation::new(move || sends_by_flume(&sender), move || assert_eq!(receiver.iter().count(), 2))
    });
}

#[test]
fn an_empty_channel_of_flume_is_diagnosed() {
    let (reason, advice) = ("a receive from a blocking channel", "tokio::sync::mpsc");
    check(lock(reason, advice, "maps::receives_by_flume"), || {
        let (sender, receiver) = flume::bounded(1);
        Situation::new(move || assert_eq!(receives_by_flume(&receiver), 1), move || sender.send(1).unwrap())
    });
}
