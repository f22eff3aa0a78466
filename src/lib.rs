//! Finds the code that blocks a Tokio event loop, while it is still blocking, and exports it as Prometheus metrics.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! let watchdog = pollwatch::Watchdog::builder()
//!     .threshold(Duration::from_millis(10))
//!     .listen("127.0.0.1:9464".parse()?) // a live page, /metrics, /stalls, /healthz
//!     .start()?;
//! let runtime = watchdog.build_runtime("main", tokio::runtime::Builder::new_multi_thread().enable_all())?;
//! runtime.block_on(watchdog.watch(async {
//!     // your service
//! }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A poll that keeps a worker for the threshold or longer is a [`Stall`]: logged (target `pollwatch::stall`) while it lasts,
//! given to [`on_stall`](WatchdogBuilder::on_stall), kept in [`Watchdog::stalls`], and counted in the metrics.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `capture` (default) | stacks of stalls: where, and, with the kernel's help, why |
//! | `server` (default) | the HTTP server on its own thread: a live page at `/`, `/metrics`, `/stalls`, `/healthz`, and profiles of blocked time: flame graph, pprof, speedscope, folded stacks |
//! | `prometheus` (with `server`) | `Watchdog::collector()` for your own `Registry`, `Watchdog::metrics_text()` |
//! | `axum` (default) | routes named by the path that axum matched; with it `tower`, and with `server` [`Watchdog::router`](Watchdog#method.router) |
//! | `tower` (with `axum`) | [`Watchdog::layer`](Watchdog#method.layer): stalls and metrics by the route of a request |
//! | `spans` (default) | `Watchdog::span_layer()`: the `tracing` spans that a stall happens in |
//! | `testing` | `pollwatch::testing`: fails a test that blocks its event loop |
//! | `serde` (with `server`) | `serde::Serialize` for [`Stall`] |
//!
//! # What it can see
//!
//! With `--cfg tokio_unstable` every task of a runtime that [`Watchdog::build_runtime`] built, third-party ones too. Without
//! it, and for a runtime that is only [attached](Watchdog::attach), the futures given to [`Watchdog::watch`] and
//! [`Watchdog::spawn`], and requests below a [layer](Watchdog#method.layer). [`Watchdog::coverage`] tells which.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod detect;
mod error;
mod export;
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

pub use error::Error;
pub use measure::entry::allow::allow_blocking;
pub use measure::entry::future::Watched;
pub use measure::entry::hooks::Hooks;
#[cfg(feature = "spans")]
pub use measure::entry::spans::layer::SpanLayer;
pub use measure::runtime::lag::{Lag, LagSource};
pub use model::cause::{Cause, Certainty, Syscall};
pub use model::coverage::{Coverage, RuntimeCoverage, StackCoverage};
pub use model::lag::{LagReading, ScheduleDelay};
#[cfg(feature = "server")]
pub use model::profile::{Profile, ProfileEntry, ProfileFunction};
pub use model::site::Site;
pub use model::snapshot;
pub use model::snapshot::Snapshot;
pub use model::stall::{Phase, Stall};
pub use pollwatch_stack::{Frame, Stack};
pub use watchdog::{Watchdog, WatchdogBuilder};

#[cfg(feature = "tower")]
pub use measure::layer::WatchLayer;

/// What [`WatchLayer`] is made of: the types that a signature may have to name.
#[cfg(feature = "tower")]
pub mod layer {
    pub use crate::measure::layer::{ResponseFuture, WatchBody, WatchLayer, WatchService};
}

#[cfg(feature = "prometheus")]
pub use export::collector::Collector;

/// The README's code compiles.
#[cfg(all(doctest, feature = "server", feature = "spans"))]
#[doc = include_str!("../README.md")]
struct Readme;
