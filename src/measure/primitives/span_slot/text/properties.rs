use proptest::collection::vec;
use proptest::prelude::*;
use tracing::field::{Empty, display};

use super::tests::text_of;
use super::*;

/// Returns the text of a span with three fields, after these values were recorded.
fn recorded(values: &[(u8, String)]) -> String {
    text_of(|| {
        let span = tracing::info_span!("work", a = Empty, b = Empty, c = Empty);
        for (field, value) in values {
            span.record(["a", "b", "c"][usize::from(*field)], display(value));
        }
        span
    })
}

/// The text as a simple model formats it: fields in the order in which they were recorded last.
struct Expected {
    text: String,
    /// `true` if the text fitted after every recorded value.
    always_fitted: bool,
}

fn expected(values: &[(u8, String)]) -> Expected {
    let mut fields: Vec<(u8, &str)> = Vec::new();
    let mut expected = Expected { text: "work".to_owned(), always_fitted: true };
    for (field, value) in values {
        fields.retain(|(known, _)| known != field);
        fields.push((*field, value));
        let fields: Vec<_> = fields.iter().map(|(f, v)| format!("{}={v}", char::from(b'a' + f))).collect();
        expected.text = format!("work{{{}}}", fields.join(" "));
        expected.always_fitted &= expected.text.len() <= MAX_BODY;
    }
    expected
}

proptest! {
    #![proptest_config(crate::properties::config())]

    #[test]
    fn any_values_are_one_bounded_line(values in vec((0..3u8, any::<String>()), 0..12)) {
        let text = recorded(&values);
        prop_assert!(text.len() <= MAX_TEXT_BYTES && text.starts_with("work"), "{}", text);
        prop_assert!(!text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{:?}", text);
        prop_assert!(text == "work" || text.ends_with('}') || text.ends_with('…'), "{}", text);
    }

    #[test]
    fn what_fits_is_complete(values in vec((0..3u8, "[ -!#-&(-\\[\\]-~]{0,70}"), 0..12)) {
        let expected = expected(&values);
        let text = recorded(&values);
        if expected.always_fitted {
            prop_assert_eq!(text, expected.text);
        } else {
            prop_assert!(text.len() <= MAX_TEXT_BYTES);
        }
    }

    #[test]
    fn a_name_is_truncated_between_characters(name in "[ -~äé日🦀]{0,300}") {
        let text = tests::decoded(&SpanText::new(&name));
        prop_assert!(text.len() <= MAX_TEXT_BYTES);
        if name.len() <= MAX_BODY {
            prop_assert_eq!(text, name);
        } else {
            let head = text.strip_suffix('…').expect("it says that something is left out");
            prop_assert!(name.starts_with(head) && head.len() + 4 > MAX_BODY, "{} of {}", text, name);
        }
    }
}
