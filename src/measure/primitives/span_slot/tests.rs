use super::*;

fn key(span: u64) -> Key {
    Key { layer: 1, span }
}

fn push(slot: &SpanSlot, span: u64) -> bool {
    slot.push(key(span), Place { poll: span * 10, task: 0 }, &Text::new(&format!("span {span}")))
}

/// The spans that a reader sees; each with its own text and place.
fn seen(slot: &SpanSlot) -> Vec<u64> {
    let entered = slot.read().expect("nobody writes").entered;
    for e in &entered {
        assert_eq!((e.text(), e.place.poll), (format!("span {}", e.key.span), e.key.span * 10));
    }
    entered.iter().map(|e| e.key.span).collect()
}

#[test]
fn levels_come_and_go_in_any_order() {
    let slot: SpanSlot = SpanSlot::new();
    assert_eq!((seen(&slot), slot.top_place()), (vec![], None));
    for span in 1..=5 {
        assert!(push(&slot, span));
    }
    slot.remove(slot.find(key(2)).unwrap());
    assert_eq!(seen(&slot), [1, 3, 4, 5]);
    slot.remove(3);
    slot.remove(0);
    assert_eq!(seen(&slot), [3, 4]);
    slot.remove(7);
    push(&slot, 3);
    assert_eq!((slot.find(key(3)), slot.find(Key { layer: 2, span: 3 })), (Some(2), None));
    slot.retain(|at, place| at != 0 && place.poll != 10);
    assert_eq!(seen(&slot), [4, 3]);
    slot.retain(|_, _| false);
    assert!(seen(&slot).is_empty());
}

#[test]
fn no_more_than_the_levels() {
    let slot: SpanSlot = SpanSlot::new();
    for span in 0..LEVELS as u64 {
        assert!(push(&slot, span));
    }
    assert!(!push(&slot, 99));
    for deeper in [3, 1 << 20, 0, 2] {
        slot.set_deeper(deeper);
        assert_eq!(slot.read().unwrap().deeper, deeper.min(65_535) as u64);
        assert_eq!(seen(&slot).len(), LEVELS);
    }
    slot.remove(0);
    assert_eq!((seen(&slot).len(), slot.read().unwrap().deeper), (LEVELS - 1, 2));
}

#[test]
fn another_text_is_another_state() {
    let slot: SpanSlot = SpanSlot::new();
    (1..=3).for_each(|span| assert!(push(&slot, span)));
    let before = slot.version.get();
    slot.rewrite(1, &Text::new(&"long ".repeat(20)));
    assert_eq!(slot.read().unwrap().entered[1].text(), "long ".repeat(20));
    slot.rewrite(1, &Text::new("span 2"));
    assert_eq!(seen(&slot), [1, 2, 3]);
    assert_ne!(slot.version.get(), before);
}
