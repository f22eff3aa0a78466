//! The log of the library, printed as lines on standard output.

use std::fmt::{self, Write};
use std::sync::Arc;

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::output::Output;

/// The target of the library's events.
const TARGET: &str = "pollwatch";

/// The target of its events about stalls. With `--json` a stall is an object of its own.
const STALLS: &str = "pollwatch::stall";

/// A subscriber that prints the messages of the library's events. It has no spans.
pub(super) struct PrintEvents {
    output: Arc<Output>,
}

impl PrintEvents {
    pub(super) fn new(output: Arc<Output>) -> PrintEvents {
        PrintEvents { output }
    }
}

impl Subscriber for PrintEvents {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_own = metadata.target() == TARGET || metadata.target().starts_with("pollwatch::");
        metadata.is_event() && is_own && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let level = *event.metadata().level();
        match self.output.is_json() {
            false => self.output.log(level, &message.0),
            true if event.metadata().target() == STALLS => {}
            true => {
                let message = message.0.trim_end();
                self.output.json(&json!({ "event": "log", "level": level.as_str(), "message": message }));
            }
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The text of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
