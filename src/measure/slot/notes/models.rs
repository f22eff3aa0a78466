use super::super::{Kind, What};
use super::*;

fn allowed() -> u64 {
    What { kind: Kind::Allowed, runtime: 0, route: None, index: 0 }.pack()
}

/// The owner takes a note for its frame only if it was made of it, whole.
#[test]
fn a_note_is_of_the_frame_that_it_was_made_of() {
    let write = |slot: &Slot| {
        for task in 1..=2 {
            let number = slot.push(UNTIMED, 1, task, None);
            if let Some(at) = slot.noted(slot.top_at().unwrap()) {
                assert_eq!(at, number + 100);
            }
            slot.pop();
        }
    };
    let read = |slot: &Slot| {
        let Some(mut reading) = slot.read() else { return false };
        let Some(number) = reading.frames().first().map(|f| f.number) else { return false };
        slot.note(&mut reading, number + 100);
        true
    };
    crate::sync::model_one_writer(Slot::new, write, read, |slot| assert_eq!(slot.depth(), 0));
}

/// A slot, and the time: the poll begins at 0 and works until 5, blocks as it is meant to until 20, and works until 30.
struct World {
    slot: Slot,
    time: AtomicU64,
    /// Whether it was noted within the scope.
    within: AtomicU64,
}

/// Whenever the watchdog looks: what is left out is never counted, and all that comes after the scope is, if the frame was seen in it.
#[test]
fn a_note_is_moved_by_what_is_left_out_after_it_and_by_nothing_else() {
    let new = || World { slot: Slot::new(), time: AtomicU64::new(0), within: AtomicU64::new(0) };
    let write = |world: &World| {
        let pass = |to| world.time.store(to, Ordering::Release);
        world.slot.push(UNTIMED, 1, 1, None);
        pass(5);
        world.slot.push(5, allowed(), 0, None);
        pass(20);
        world.slot.pop_left_out(15);
        pass(30);
    };
    let read = |world: &World| {
        let Some(mut reading) = world.slot.read() else { return false };
        let now = world.time.load(Ordering::Acquire);
        world.slot.note(&mut reading, now);
        let within = reading.frames().len() == 2 && reading.is_steady;
        world.within.store(within.into(), Ordering::Relaxed);
        within
    };
    crate::sync::model_one_writer(new, write, read, |world| {
        let within = world.within.load(Ordering::Relaxed) == 1;
        match world.slot.noted(world.slot.top_at().unwrap()) {
            Some(at) => assert!(at == 20 || !within && at >= 15, "{at}, {within}"),
            None => assert!(!within),
        }
    });
}
