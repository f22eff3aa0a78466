use super::super::{Kind, What};
use super::*;

fn what(kind: Kind) -> u64 {
    What { kind, runtime: 0, route: None, index: 0 }.pack()
}

fn begins(slot: &Slot) -> Vec<u64> {
    slot.read().unwrap().frames().iter().map(|f| f.begin).collect()
}

fn note(slot: &Slot, now: u64) {
    let mut reading = slot.read().unwrap();
    slot.note(&mut reading, now);
    assert_eq!(reading.frames().iter().map(|f| f.begin).collect::<Vec<_>>(), begins(slot));
}

/// What the owner is told at the frame's end.
fn noted(slot: &Slot) -> Option<u64> {
    let top = slot.top_at().unwrap();
    let noted = slot.noted(top);
    assert!(noted.is_none() || slot.may_be_noted(top.1));
    noted
}

#[test]
fn an_untimed_frame_begins_when_it_is_first_seen() {
    let slot = Slot::new();
    slot.push(UNTIMED, 1, 1, None);
    slot.push(50, 1, 2, None);
    assert_eq!((begins(&slot), noted(&slot)), (vec![UNTIMED, 50], None));
    assert!(!slot.may_be_noted(slot.top().unwrap()));
    note(&slot, 60);
    note(&slot, 70);
    assert_eq!(begins(&slot), [60, 50]);
    slot.pop();
    assert_eq!(noted(&slot), Some(60));
    slot.pop();
    slot.push(UNTIMED, 1, 3, None);
    assert!(!slot.may_be_noted(slot.top().unwrap()), "another frame at the same depth");
    assert_eq!((begins(&slot), noted(&slot)), (vec![UNTIMED], None));
}

#[test]
fn what_is_meant_to_block_is_left_out_of_what_is_known() {
    let slot = Slot::new();
    let allowed = |began, ended| {
        slot.push(began, what(Kind::Allowed), 0, None);
        slot.pop_left_out(ended - began);
    };
    slot.push(UNTIMED, 1, 1, None);
    allowed(100, 200);
    assert_eq!(noted(&slot), None);
    note(&slot, 210);
    assert_eq!(noted(&slot), Some(210), "what was left out before does not move it");
    allowed(220, 320);
    assert_eq!((noted(&slot), begins(&slot)), (Some(310), vec![310]));
    allowed(330, 1_330);
    // A long poll of many such parts: 0 to 10 and 20 to 30 after its note.
    assert_eq!(noted(&slot), Some(1_310));
    slot.pop();
}

#[test]
fn a_frame_that_is_first_seen_in_a_scope_was_there_when_it_began() {
    let slot = Slot::new();
    slot.push(UNTIMED, 1, 1, None);
    slot.push(100, what(Kind::Allowed), 0, None);
    slot.push(150, what(Kind::Allowed), 0, None);
    note(&slot, 190);
    assert_eq!(begins(&slot), [100, 100, 150]);
    slot.pop_left_out(50);
    assert_eq!(begins(&slot), [150, 150]);
    slot.pop_left_out(300 - 150);
    assert_eq!(noted(&slot), Some(300), "all of the scope is left out, and nothing that comes after it");
}

#[cfg(feature = "tower")]
#[test]
fn a_request_within_a_request_is_left_out_of_that_but_not_of_its_poll() {
    let slot = Slot::new();
    let request = || slot.push(UNTIMED, what(Kind::Route), 0, None);
    let leave = |now| {
        slot.delay_requests_around(|| now);
        slot.pop();
    };
    slot.push(UNTIMED, 1, 1, None);
    request();
    note(&slot, 100);
    // One that was not seen takes nothing away.
    request();
    leave(110);
    assert_eq!(begins(&slot), [100, 100]);
    note(&slot, 120);
    request();
    note(&slot, 150);
    request();
    note(&slot, 190);
    assert_eq!(begins(&slot), [100, 100, 150, 190]);
    leave(200);
    assert_eq!(begins(&slot), [100, 150, 200], "the inner one may have begun at 150, when it was not there yet");
    leave(250);
    assert_eq!(begins(&slot), [100, 230], "120 to 150 and 200 to 250 may be the middle one's own");
    assert_eq!(noted(&slot), Some(230));
    slot.pop();
    assert_eq!(noted(&slot), Some(100), "the poll took all of that time");
}

/// The scope leaves out all of itself, and the request in it with that.
#[cfg(feature = "tower")]
#[test]
fn a_request_in_a_scope_in_a_request_is_left_out_once() {
    for timed in [true, false] {
        let slot = Slot::new();
        let begin = |at| if timed { at } else { UNTIMED };
        slot.push(begin(10), 1, 1, None);
        slot.push(begin(20), what(Kind::Route), 0, None);
        note(&slot, 25);
        slot.push(30, what(Kind::Allowed), 0, None);
        // A scope is always timed, and so is what is in it.
        slot.push(40, what(Kind::Route), 0, None);
        let outer = if timed { [10, 20] } else { [25, 25] };
        assert_eq!(begins(&slot)[..2], outer);
        slot.delay_requests_around(|| 140);
        slot.pop();
        assert_eq!(begins(&slot)[..2], outer, "timed: {timed}");
        slot.pop_left_out(150 - 30);
        assert_eq!(begins(&slot), outer.map(|begin| begin + 120), "timed: {timed}");
    }
}
