//! The layer of the user's `tracing` subscriber, which receives all spans.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::thread;
use crate::measure::primitives::span_slot::SpanKey;
use crate::measure::primitives::span_slot::text::SpanText;
use crate::measure::runtime::current;
use crate::measure::runtime::meter::Meter;

/// A `tracing_subscriber` layer that reports, with each stall, the tracing spans that the stalled
/// poll is in: [`Stall::spans`](crate::Stall::spans). Made by
/// [`Watchdog::span_layer`](crate::Watchdog::span_layer) or
/// [`pollwatch::span_layer`](crate::span_layer).
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
/// The order of the layers does not matter. The layer receives the spans that pass the filters of
/// the subscriber. If a filter applies to the whole subscriber (`.with(EnvFilter::..)`), nothing
/// else is needed. If other layers have filters of their own (`fmt::layer().with_filter(..)`), give
/// this layer a filter, too: `watchdog.span_layer().with_filter(LevelFilter::INFO)`. Otherwise the
/// spans and events of all levels of all dependencies are enabled for it.
///
/// # Which spans
///
/// The spans that a log line of the stalled poll would have: entered by a guard, by `#[instrument]`
/// or by `Instrument::instrument`, within the poll or around it. At most the 16 outermost spans are
/// reported, and the number of the others.
///
/// Not reported are spans that an earlier poll entered and did not exit: a guard that is held
/// across an `.await`. Such a guard also puts the log lines of other tasks into the wrong span.
///
/// # Names of tasks
///
/// tokio has the names of `tokio::task::Builder` (`tokio_unstable`, tokio's feature `tracing`) in
/// spans of its own: `runtime.spawn`, target `tokio::task`, level TRACE. If they pass the filter of
/// this layer, such as `EnvFilter::new("info,tokio::task=trace")`, the stall has the name:
/// [`Stall::task_name`](crate::Stall::task_name). These spans are not among the reported ones.
///
/// # Text
///
/// Name and fields, as in `request{id=7 path="/x"}`, in at most 184 bytes. A longer text is
/// truncated and ends with `…`. Line breaks and control characters are escaped. A field whose
/// `Debug` implementation panics ends with `<panicked>`.
///
/// The text is formatted when the span is created, and changed when a field is recorded. If another
/// thread records a field while this thread is in the span, this thread's reports have the new
/// value from its next entry of the span on.
///
/// # Costs
///
/// To enter a span takes a lookup in the registry, with a read lock of the span's extensions, and a
/// copy of its text. To exit a span takes a search among the entered ones. Neither allocates, once
/// the thread has entered its first span, nor takes a lock that the watchdog takes. To create a
/// span takes one formatting of its fields. A thread that enters spans needs 4 KB of memory.
///
/// The watchdog never calls the subscriber. So a layer that blocks is reported as a stall, whatever
/// locks it holds.
pub struct SpanLayer {
    watchdog: SpanWatcher,
    /// The number of this layer in the process.
    number: u64,
}

/// The watchdog that a layer records spans for.
enum SpanWatcher {
    Fixed(Arc<Meter>),
    /// The current watchdog at each entry of a span.
    Current,
}

impl std::fmt::Debug for SpanLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpanLayer").finish_non_exhaustive()
    }
}

impl SpanLayer {
    pub(crate) fn new(meter: &Arc<Meter>) -> SpanLayer {
        SpanLayer::numbered(SpanWatcher::Fixed(meter.clone()))
    }

    /// Returns a layer that finds the current watchdog at each entry of a span.
    pub(crate) fn of_current() -> SpanLayer {
        SpanLayer::numbered(SpanWatcher::Current)
    }

    fn numbered(watchdog: SpanWatcher) -> SpanLayer {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        SpanLayer { watchdog, number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn enter(&self, key: SpanKey, text: &SpanText) {
        match &self.watchdog {
            SpanWatcher::Fixed(meter) => thread::enter(meter.id, key, text, || Some(meter.clone())),
            SpanWatcher::Current => {
                if let Some(id) = current::meter_id() {
                    thread::enter(id, key, text, || current::meter_with_id(id));
                }
            }
        }
    }

    fn key(&self, id: &Id) -> SpanKey {
        SpanKey { layer: self.number, span: id.into_u64() }
    }
}

/// A span's text, in its extensions. If a subscriber has several of these layers, they share it.
struct FormattedSpan {
    text: SpanText,
    /// The number of the layer that formatted the text, and that changes it.
    formatted_by: u64,
}

/// Returns whether a span is the one in which tokio polls a task. There is one for each task where
/// tokio is built with `tokio_unstable` and its feature `tracing`, and the subscriber lets it pass.
fn is_task(metadata: &Metadata<'_>) -> bool {
    metadata.name() == "runtime.spawn" && metadata.target() == "tokio::task"
}

/// Returns `None` if another layer has panicked while it held the extensions: then their lock is
/// poisoned, and every access panics. That panic must not reach the user's code through this layer.
fn unless_poisoned<R>(f: impl FnOnce() -> Option<R>) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).ok().flatten()
}

impl<S> Layer<S> for SpanLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if unless_poisoned(|| span.extensions().get::<FormattedSpan>().map(drop)).is_some() {
            return;
        }
        // Before the extensions are locked, because the fields call the user's code.
        let text = if is_task(attributes.metadata()) {
            SpanText::of_task(|visitor| attributes.record(visitor))
        } else {
            let mut text = SpanText::new(span.name());
            text.record(|visitor| attributes.record(visitor));
            text
        };
        unless_poisoned(|| span.extensions_mut().replace(FormattedSpan { text, formatted_by: self.number }));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut recorded = SpanText::new("");
        recorded.record(|visitor| values.record(visitor));
        unless_poisoned(|| {
            let mut extensions = span.extensions_mut();
            let formatted = extensions.get_mut::<FormattedSpan>()?;
            if formatted.formatted_by == self.number {
                formatted.text.merge(&recorded);
            }
            match &self.watchdog {
                SpanWatcher::Fixed(meter) => thread::update_text(meter.id, self.key(id), &formatted.text),
                SpanWatcher::Current => thread::update_text_anywhere(self.key(id), &formatted.text),
            }
            Some(())
        });
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let entered = unless_poisoned(|| {
            let extensions = span.extensions();
            self.enter(self.key(id), &extensions.get::<FormattedSpan>()?.text);
            Some(())
        });
        if entered.is_none() {
            self.enter(self.key(id), &SpanText::new(span.name()));
        }
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        match &self.watchdog {
            SpanWatcher::Fixed(meter) => thread::exit(meter.id, self.key(id)),
            SpanWatcher::Current => thread::exit_any(self.key(id)),
        }
    }
}
