use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::field::{Empty, display};
use tracing::span::Attributes;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

type Texts = std::sync::Arc<std::sync::Mutex<Vec<Text>>>;

/// Keeps the texts of what is made and recorded, as the span layer does.
struct Keep(Texts);

impl<S: tracing::Subscriber> Layer<S> for Keep {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
        let mut text = Text::new(attributes.metadata().name());
        text.record(|visitor| attributes.record(visitor));
        self.0.lock().unwrap().push(text);
    }

    fn on_record(&self, _: &tracing::Id, values: &tracing::span::Record<'_>, _: Context<'_, S>) {
        let mut more = Text::new("");
        more.record(|visitor| values.record(visitor));
        self.0.lock().unwrap().last_mut().unwrap().take_up(&more);
    }
}

pub(super) fn told(text: &Text) -> String {
    let (words, len) = text.words();
    let mut copy = [0; WORDS];
    words.zip(&mut copy).for_each(|(word, copy)| *copy = word);
    Text::read(&copy, len)
}

/// What is told of the last span that `f` makes.
pub(super) fn text_of<R>(f: impl FnOnce() -> R) -> String {
    let texts = Texts::default();
    let subscriber = tracing_subscriber::registry().with(Keep(texts.clone()));
    tracing::subscriber::with_default(subscriber, f);
    let texts = texts.lock().unwrap();
    told(texts.last().expect("a span"))
}

macro_rules! text {
    ($($span:tt)*) => { text_of(|| tracing::info_span!($($span)*)) };
}

#[test]
fn name_and_fields() {
    assert_eq!(text!("plain"), "plain");
    assert_eq!(
        text!("request", id = 7, path = "/x", r#type = %"html", ok = true),
        r#"request{id=7 path="/x" type=html ok=true}"#
    );
    assert_eq!(text!("later", id = Empty), "later");
    assert_eq!(text!("said", n = 1, "in {} words", 3), "said{in 3 words n=1}");
}

/// What comes later stands where it is told; a value told again takes the place of the former.
#[test]
fn records() {
    let text = text_of(|| {
        let span = tracing::info_span!("r", a = Empty, b = "x", c = Empty);
        span.record("c", 1).record("a", display("one")).record("c", 22);
        span
    });
    assert_eq!(text, r#"r{b="x" a=one c=22}"#);
    let text = text_of(|| {
        let span = tracing::info_span!("r", a = 1, b = 2);
        span.record("a", 3).record("b", display("x\ny")).record("a", 4);
        span
    });
    assert_eq!(text, r"r{b=x\ny a=4}");
    let many = text_of(|| {
        let span = tracing::info_span!("r", rows = 0, user = "u");
        for rows in 0..100_000 {
            span.record("rows", rows);
        }
        span
    });
    assert_eq!(many, r#"r{user="u" rows=99999}"#);
}

#[test]
fn what_does_not_fit_is_cut() {
    let long = "ä".repeat(1_000);
    for text in [
        text!("request", id = 7, body = long.as_str()),
        text!("request", id = 7, body = %long),
        text!("request", id = 7, body = ?long),
        text_of(|| {
            let span = tracing::info_span!("request", id = 7, body = Empty);
            span.record("body", long.as_str());
            span
        }),
    ] {
        assert!(text.starts_with("request{id=7 body=") && text.ends_with("ä…}"), "{text}");
        assert!((BYTES - 2..=BYTES).contains(&text.len()), "{}", text.len());
    }
    // What comes after is not asked for.
    let asked = AtomicUsize::new(0);
    struct Counts<'a>(&'a AtomicUsize);
    impl Debug for Counts<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fetch_add(1, Ordering::Relaxed);
            f.write_str("counts")
        }
    }
    let text = text!("request", body = long.as_str(), more = ?Counts(&asked));
    assert!(text.ends_with("ä…}") && asked.load(Ordering::Relaxed) == 0, "{text}");
    // A shorter value makes room again.
    let text = text_of(|| {
        let span = tracing::info_span!("request", body = long.as_str(), id = Empty);
        span.record("body", "short").record("id", 7);
        span
    });
    assert_eq!(text, r#"request{body="short" id=7}"#);
    // A value that never ends is told to stop, one that does not expect that is left alone.
    struct Endless(bool);
    impl Debug for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                let result = f.write_str("endless ");
                if self.0 { result.expect("strings have no end") } else { result? }
            }
        }
    }
    for text in [text!("r", it = ?Endless(false)), text!("r", it = ?Endless(true))] {
        assert!(text.starts_with("r{it=endless endless ") && text.ends_with("…}"), "{text}");
    }
}

#[test]
fn a_long_name_is_cut() {
    let text = told(&Text::new(&"n".repeat(500)));
    assert_eq!(text, "n".repeat(ROOM) + "…");
    for len in ROOM - 4..=ROOM {
        let mut text = Text::new(&"n".repeat(len));
        let mut more = Text::new("");
        // A field that hardly fits, or does not.
        more.fields[0] = (0, 4);
        more.bytes[..4].copy_from_slice(b"{a=1");
        text.take_up(&more);
        let text = told(&text);
        let name = "n".repeat(len);
        let all = format!("{name}{{a=1}}");
        assert!(all == text || text.starts_with(&name) && (text.ends_with("…") || text.ends_with("…}")), "{text}");
        assert!(text.len() <= BYTES && (len + 4 > ROOM || text == all), "{text}");
    }
}

/// One line, whatever the values are: nobody writes a log line of his own through them.
#[test]
fn values_stay_values() {
    let hostile = "x\nstall #1\r\x1b[2J\u{202e}\u{2028}\0\"'\\";
    let text = text!("h", a = hostile, b = %hostile, c = ?hostile);
    assert!(text.contains(r"x\nstall #1\r\u{1b}[2J\u{202e}\u{2028}\0"), "{text}");
    assert!(!text.contains(|c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{2028}')), "{text:?}");
    let text = text!("h", b = %"it's \"1\" \\ n");
    assert_eq!(text, "h{b=it's \"1\" \\ n}");
    assert_eq!(text!("h", b = %"नमस्ते 日本 🦀"), "h{b=नमस्ते 日本 🦀}");
}

#[test]
fn a_panic_in_a_value_stays_there() {
    struct Panics;
    impl Debug for Panics {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("half")?;
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    assert_eq!(text!("r", a = 1, it = ?Panics, b = 2), "r{a=1 it=half<panicked> b=2}");
}
