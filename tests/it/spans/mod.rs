//! Tests of the tracing spans of a stall. Each sets its own subscriber on the threads that need it.

mod nesting;
mod subscribers;

use pollwatch::{Phase, Stall, Watchdog};
use tokio::runtime::{Builder, Runtime};
use tracing::Dispatch;
use tracing::dispatcher::DefaultGuard;
use tracing_subscriber::layer::SubscriberExt;

use test_support::*;

/// A watched runtime whose threads, like the one that made it, have a subscriber with a span layer.
struct Traced {
    watchdog: Watchdog,
    collected: CollectedStalls,
    runtime: Runtime,
    _default: DefaultGuard,
}

/// A runtime with the span layer alone.
fn traced() -> Traced {
    traced_by(multi_thread(1), |watchdog, _| tracing_subscriber::registry().with(watchdog.span_layer()).into())
}

fn traced_by(mut builder: Builder, subscriber: impl FnOnce(&Watchdog, &CollectedStalls) -> Dispatch) -> Traced {
    let (watchdog, collected) = start(THRESHOLD);
    let dispatch = subscriber(&watchdog, &collected);
    let _default = tracing::dispatcher::set_default(&dispatch);
    builder.on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&dispatch)));
    let runtime = match HOOKS {
        true => watchdog.build_runtime("main", builder).unwrap(),
        false => builder.build().unwrap(),
    };
    Traced { watchdog, collected, runtime, _default }
}

impl Traced {
    /// Runs a task to its end.
    #[track_caller]
    fn run<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (task, _) = spawn_measured(&self.watchdog, self.runtime.handle(), future);
        self.runtime.block_on(task).expect("the task ends")
    }
}

fn texts(stall: &Stall) -> Vec<&str> {
    stall.spans.iter().map(|s| &**s).collect()
}

/// Blocks the thread until its stall is reported with exactly these spans. The stall may be found
/// before the thread gets here. Then a later scan observes the spans.
#[track_caller]
fn block_until_reported(collected: &CollectedStalls, spans: &[&str]) -> Stall {
    let stall = collected.wait(|s| s.phase == Phase::Ongoing && texts(s) == spans);
    stall.unwrap_or_else(|| panic!("not reported with {spans:?}: {:#?}", collected.all()))
}
