//! Finds the code that blocks a Tokio event loop, while it is still blocking, and exports it as
//! Prometheus metrics.
//!
//! ```
//! # #[cfg(feature = "macros")] mod program {
//! #[pollwatch::main(threshold = "10ms")] // was: #[tokio::main]
//! async fn main() {
//!     // your service
//! }
//! # }
//! ```
//!
//! `listen = "127.0.0.1:9464"` adds a live page. The same with a builder, which has more settings:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! let watchdog = pollwatch::Watchdog::builder()
//!     .threshold(Duration::from_millis(10))
//!     .listen("127.0.0.1:9464") // a live page, /metrics, /stalls, /healthz
//!     .start()?;
//! let runtime = watchdog.runtime("main").enable_all().build()?;
//! runtime.block_on(watchdog.watch(async {
//!     // your service
//! }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A poll that occupies a worker for the threshold or longer is a [`Stall`]. It is logged (target
//! `pollwatch::stall`) while it lasts, passed to [`on_stall`](WatchdogBuilder::on_stall), returned
//! by [`Watchdog::stalls`], and counted in the metrics.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `capture` (default) | the stacks of stalls: the function and the line that block |
//! | `server` (default) | [`WatchdogBuilder::listen`](WatchdogBuilder#method.listen): an HTTP server |
//! | `prometheus` (with `server`) | `Watchdog::collector()`, `Watchdog::metrics_text()` |
//! | `axum` (default) | routes by axum's matched path; [`Watchdog::router`](Watchdog#method.router) |
//! | `tower` (with `axum`) | [`Watchdog::layer`](Watchdog#method.layer): stalls by route |
//! | `spans` (default) | `Watchdog::span_layer()`: the `tracing` spans of a stall |
//! | `macros` (default) | `#[pollwatch::main]` and `#[pollwatch::test]` |
//! | `attach` | `pollwatch::attach`: the stalls of another process (Linux) |
//! | `delays` | [`WatchdogBuilder::track_delays`]: which tasks wait behind a stall (`tokio_unstable`) |
//! | `testing` (with `macros`) | `pollwatch::testing`: fails a test that blocks its event loop |
//! | `serde` (with `server`) | `serde::Serialize` for [`Stall`] and [`Snapshot`] |
//!
//! The server runs on its own thread. It has a live page at `/`, `/metrics`, `/stalls`, `/threads`,
//! `/healthz`, and profiles of blocked time: flame graph, pprof, speedscope, folded stacks.
//!
//! # What it can see
//!
//! With `--cfg tokio_unstable`: every task of a runtime that `#[pollwatch::main]`,
//! [`Watchdog::runtime`] or [`Watchdog::build_runtime`] built, including tasks of third-party
//! crates.
//!
//! Without it, and for a runtime that is only [attached](Watchdog::attach): the futures given to
//! [`Watchdog::watch`] and [`Watchdog::spawn`], and requests below a
//! [layer](Watchdog#method.layer). [`Watchdog::coverage`] reports which of the two applies.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(
    feature = "attach",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(pollwatch_loom)
))]
pub mod attach;
mod detect;
mod error;
mod export;
#[cfg(feature = "macros")]
mod macros;
mod measure;
mod model;
#[cfg(all(test, not(pollwatch_loom)))]
mod properties;
mod report;
mod sync;
mod sys;
#[cfg(feature = "testing")]
pub mod testing;
mod util;
mod watchdog;

pub use error::{Error, ErrorKind};
pub use measure::entry::allow::allow_blocking;
pub use measure::entry::current_future::{CurrentWatched, FutureExt};
pub use measure::entry::future::Watched;
pub use measure::entry::hooks::{HookedTask, Hooks};
#[cfg(feature = "spans")]
pub use measure::entry::spans::layer::SpanLayer;
pub use measure::runtime::lag::{Lag, LagSource};
pub use model::cause::{Cause, Certainty, Syscall};
pub use model::condition::{BlockingPoolLoad, Condition, ConditionKind};
pub use model::coverage::{Coverage, RuntimeCoverage, StackCoverage};
pub use model::incident::{Incident, IncidentKind};
pub use model::kernel_time::PageFaults;
pub use model::lag::{LagReading, ScheduleDelay};
pub use model::late_runtime::{LateReason, LateRuntime, RouteUsage, SiteUsage};
pub use model::lock::{Holder, HolderThread, LockInfo};
pub use model::log_format::LogFormat;
pub use model::pool::PoolActivity;
#[cfg(feature = "server")]
pub use model::profile::{Profile, ProfileEntry, ProfileFunction};
pub use model::segment::{MergedSegments, Segment};
pub use model::site::Site;
pub use model::snapshot;
pub use model::snapshot::Snapshot;
pub use model::stall::{Phase, Stall};
pub use model::thread_dump::{ThreadActivity, ThreadDump, ThreadGroup, ThreadInfo, ThreadRole};
pub use model::victims::{VictimGroup, Victims};
pub use pollwatch_stack::{Address, BuildId, Frame, Module, Stack, Tid};
#[cfg(feature = "attach")]
pub use pollwatch_stack::{Denial, ProcessError};
pub use report::incidents::action::Action;
pub use watchdog::current::{current, spawn};
pub use watchdog::{RuntimeBuilder, Watchdog, WatchdogBuilder};

#[cfg(feature = "macros")]
pub use pollwatch_macros::{main, test};

/// The items that the attributes expand to. They are no part of the public interface.
#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod __private {
    pub use crate::__server_address as server_address;
    pub use crate::macros::{Main, Test};
    pub use tokio;
}

#[cfg(feature = "tower")]
pub use measure::entry::watched_request::{RequestWatcher, WatchedRequest};
#[cfg(feature = "tower")]
pub use measure::layer::WatchLayer;
#[cfg(feature = "tower")]
pub use watchdog::current::layer;
#[cfg(feature = "spans")]
pub use watchdog::current::span_layer;

/// The types of [`WatchLayer`] that a signature may have to name.
#[cfg(feature = "tower")]
pub mod layer {
    pub use crate::measure::layer::{ResponseFuture, WatchBody, WatchLayer, WatchService};
}

#[cfg(feature = "prometheus")]
pub use export::collector::Collector;

/// Compiles the code of the README and of the pages that a user copies from.
#[cfg(all(doctest, feature = "axum", feature = "macros", feature = "server", feature = "spans"))]
mod documents {
    #[doc = include_str!("../README.md")]
    struct ReadmePage;
    #[doc = include_str!("../docs/find.md")]
    struct FindPage;
    #[doc = include_str!("../docs/fix.md")]
    struct FixPage;
    #[doc = include_str!("../docs/setup.md")]
    struct SetupPage;
    #[doc = include_str!("../docs/test.md")]
    struct TestPage;
}
