//! The way in: a layer of the user's `tracing` subscriber.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::Subscriber;
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::thread;
use crate::measure::primitives::span_slot::Key;
use crate::measure::primitives::span_slot::text::Text;
use crate::measure::runtime::meter::Meter;

/// Tells stalls with the tracing spans that they happen in: [`Stall::spans`](crate::Stall::spans). A layer for a
/// `tracing_subscriber` registry, made by [`Watchdog::span_layer`](crate::Watchdog::span_layer).
///
/// ```
/// use tracing_subscriber::layer::SubscriberExt;
/// use tracing_subscriber::util::SubscriberInitExt;
///
/// let watchdog = pollwatch::Watchdog::builder().start()?;
/// tracing_subscriber::registry()
///     .with(watchdog.span_layer())
///     .with(tracing_subscriber::fmt::layer())
///     .init();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It stands above or beneath any other layer, and sees the spans that pass the subscriber's filters. Beneath a filter of the whole
/// subscriber (`.with(EnvFilter::..)`) there is nothing to do. Where other layers have filters of their own
/// (`fmt::layer().with_filter(..)`), give this one a filter as well, or every span and event of every dependency is made for it:
/// `watchdog.span_layer().with_filter(LevelFilter::INFO)`.
///
/// # Which spans
///
/// Those that a log line written in the stalled poll would stand in: entered by a guard, by `#[instrument]`, by
/// `Instrument::instrument`, inside of the poll or around it. The exception are spans that an earlier poll entered and did not leave
/// (a guard held across an `.await`, which also puts other tasks' log lines into the wrong span): those are not told. At most the 16
/// outermost, and how many more there are.
///
/// # What of them
///
/// Name and fields, as `request{id=7 path="/x"}`: at most 184 bytes, what does not fit is cut off with `…`. Line breaks and
/// control characters are escaped. It is formatted when the span is made and when a field is recorded; a record that another
/// thread makes on a span that this one is in is seen when it is entered next. A field whose `Debug` panics says `<panicked>`.
///
/// # Costs
///
/// Entering a span looks it up in the registry, with a read lock of its extensions, and copies its text to where the watchdog can
/// read it; leaving it is a look at those that are entered. No allocation, no lock that the watchdog takes. Making a span formats its fields
/// once. A thread that enters spans gives 4 KB for that.
///
/// The watchdog never asks the subscriber: a layer that blocks, whatever it holds, is found as a stall like anything else.
pub struct SpanLayer {
    meter: Arc<Meter>,
    number: u64,
}

impl std::fmt::Debug for SpanLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanLayer").finish_non_exhaustive()
    }
}

impl SpanLayer {
    pub(crate) fn new(meter: &Arc<Meter>) -> SpanLayer {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        SpanLayer { meter: meter.clone(), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn key(&self, id: &Id) -> Key {
        Key { layer: self.number, span: id.into_u64() }
    }
}

/// What is kept of a span in its extensions. All layers of this kind share it; the one that made it writes it.
struct Kept {
    by: u64,
    text: Text,
}

/// Extensions panic when a layer has panicked while it wrote to them: that was not ours, and must not go through us.
fn unless_poisoned<R>(f: impl FnOnce() -> Option<R>) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).ok().flatten()
}

impl<S> Layer<S> for SpanLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if unless_poisoned(|| span.extensions().get::<Kept>().map(drop)).is_some() {
            return;
        }
        // Not with the extensions locked: the fields are the user's code.
        let mut text = Text::new(span.name());
        text.record(|visitor| attributes.record(visitor));
        unless_poisoned(|| span.extensions_mut().replace(Kept { by: self.number, text }));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut more = Text::new("");
        more.record(|visitor| values.record(visitor));
        unless_poisoned(|| {
            let mut extensions = span.extensions_mut();
            let kept = extensions.get_mut::<Kept>()?;
            if kept.by == self.number {
                kept.text.take_up(&more);
            }
            thread::refresh(self.meter.id, self.key(id), &kept.text);
            Some(())
        });
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let known = unless_poisoned(|| {
            let extensions = span.extensions();
            thread::enter(&self.meter, self.key(id), &extensions.get::<Kept>()?.text);
            Some(())
        });
        if known.is_none() {
            thread::enter(&self.meter, self.key(id), &Text::new(span.name()));
        }
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        thread::exit(self.meter.id, self.key(id));
    }
}
