use super::*;

fn key(span: u64) -> SpanKey {
    SpanKey { layer: 1, span }
}

fn push(slot: &SpanSlot, span: u64) -> bool {
    slot.push(key(span), EnteredDuring::Poll(FrameNumber(span * 10)), &SpanText::new(&format!("span {span}")))
}

/// Returns the ids of the published spans, and checks that each has its own text and poll.
fn published(slot: &SpanSlot) -> Vec<u64> {
    let spans = slot.read().expect("nobody writes").spans;
    for span in &spans {
        let id = span.key.span;
        assert_eq!((span.text(), span.during), (format!("span {id}"), EnteredDuring::Poll(FrameNumber(id * 10))));
    }
    spans.iter().map(|span| span.key.span).collect()
}

#[test]
fn spans_are_removed_in_any_order() {
    let slot: SpanSlot = SpanSlot::new();
    assert_eq!((published(&slot), slot.innermost_during()), (vec![], None));
    for span in 1..=5 {
        assert!(push(&slot, span));
    }
    slot.remove(slot.find(key(2)).unwrap());
    assert_eq!(published(&slot), [1, 3, 4, 5]);
    slot.remove(3);
    slot.remove(0);
    assert_eq!(published(&slot), [3, 4]);
    slot.remove(7);
    push(&slot, 3);
    assert_eq!((slot.find(key(3)), slot.find(SpanKey { layer: 2, span: 3 })), (Some(2), None));
    slot.retain(|i, during| i != 0 && during != EnteredDuring::Poll(FrameNumber(10)));
    assert_eq!(published(&slot), [4, 3]);
    slot.retain(|_, _| false);
    assert!(published(&slot).is_empty());
}

#[test]
fn what_a_span_was_entered_during_is_published() {
    let slot: SpanSlot = SpanSlot::new();
    for during in [EnteredDuring::Poll(FrameNumber(7)), EnteredDuring::Task(TaskBits(7)), EnteredDuring::NoTask] {
        assert!(slot.push(key(1), during, &SpanText::new("span 1")));
        assert_eq!(slot.innermost_during(), Some(during));
        assert_eq!(slot.read().unwrap().spans.last().unwrap().during, during);
    }
}

#[test]
fn the_number_of_published_spans_is_bounded() {
    let slot: SpanSlot = SpanSlot::new();
    for span in 1..=MAX_SPANS as u64 {
        assert!(push(&slot, span));
    }
    assert!(!push(&slot, 99));
    for excess in [3, 1 << 20, 0, 2] {
        slot.set_excess(excess);
        assert_eq!(slot.read().unwrap().excess, excess.min(65_535) as u64);
        assert_eq!(published(&slot).len(), MAX_SPANS);
    }
    slot.remove(0);
    assert_eq!((published(&slot).len(), slot.read().unwrap().excess), (MAX_SPANS - 1, 2));
}

#[test]
fn another_text_is_another_version() {
    let slot: SpanSlot = SpanSlot::new();
    (1..=3).for_each(|span| assert!(push(&slot, span)));
    let before = slot.version.get();
    slot.replace_text(1, &SpanText::new(&"long ".repeat(20)));
    assert_eq!(slot.read().unwrap().spans[1].text(), "long ".repeat(20));
    slot.replace_text(1, &SpanText::new("span 2"));
    assert_eq!(published(&slot), [1, 2, 3]);
    assert_ne!(slot.version.get(), before);
}
