use proptest::collection::vec;
use proptest::prelude::*;
use tracing::field::{Empty, display};

use super::tests::text_of;
use super::*;

/// Fields are told one after the other, in the order in which they were recorded last.
fn recorded(values: &[(u8, String)]) -> String {
    text_of(|| {
        let span = tracing::info_span!("work", a = Empty, b = Empty, c = Empty);
        for (field, value) in values {
            span.record(["a", "b", "c"][usize::from(*field)], display(value));
        }
        span
    })
}

/// What they add up to, and whether all of it fitted at each step.
fn expected(values: &[(u8, String)]) -> (String, bool) {
    let (mut told, mut fits, mut text): (Vec<(u8, &str)>, _, _) = (Vec::new(), true, "work".to_owned());
    for (field, value) in values {
        told.retain(|(known, _)| known != field);
        told.push((*field, value));
        let fields: Vec<_> = told.iter().map(|(f, v)| format!("{}={v}", char::from(b'a' + f))).collect();
        text = format!("work{{{}}}", fields.join(" "));
        fits &= text.len() <= ROOM;
    }
    (text, fits)
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn any_values_are_one_bounded_line(values in vec((0..3u8, any::<String>()), 0..12)) {
        let text = recorded(&values);
        prop_assert!(text.len() <= BYTES && text.starts_with("work"), "{}", text);
        prop_assert!(!text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{:?}", text);
        prop_assert!(text == "work" || text.ends_with('}') || text.ends_with('…'), "{}", text);
    }

    #[test]
    fn what_fits_is_told_whole(values in vec((0..3u8, "[ -!#-&(-\\[\\]-~]{0,70}"), 0..12)) {
        let (whole, fits) = expected(&values);
        let text = recorded(&values);
        if fits {
            prop_assert_eq!(text, whole);
        } else {
            prop_assert!(text.len() <= BYTES);
        }
    }

    #[test]
    fn a_name_is_cut_between_characters(name in "[ -~äé日🦀]{0,300}") {
        let text = tests::told(&Text::new(&name));
        prop_assert!(text.len() <= BYTES);
        if name.len() <= ROOM {
            prop_assert_eq!(text, name);
        } else {
            let head = text.strip_suffix('…').expect("it says that something is left out");
            prop_assert!(name.starts_with(head) && head.len() + 4 > ROOM, "{} of {}", text, name);
        }
    }
}
