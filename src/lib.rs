//! Finds the code that blocks a Tokio event loop, while it is still blocking, and exports it as
//! Prometheus metrics.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! let watchdog = pollwatch::Watchdog::builder()
//!     .threshold(Duration::from_millis(10))
//!     .listen("127.0.0.1:9464".parse()?) // a live page, /metrics, /stalls, /healthz
//!     .start()?;
//! let mut builder = tokio::runtime::Builder::new_multi_thread();
//! let runtime = watchdog.build_runtime("main", builder.enable_all())?;
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
//! | `testing` | `pollwatch::testing`: fails a test that blocks its event loop |
//! | `serde` (with `server`) | `serde::Serialize` for [`Stall`] |
//!
//! The server runs on its own thread. It has a live page at `/`, `/metrics`, `/stalls`, `/healthz`,
//! and profiles of blocked time: flame graph, pprof, speedscope, folded stacks.
//!
//! # What it can see
//!
//! With `--cfg tokio_unstable`: every task of a runtime that [`Watchdog::build_runtime`] built,
//! including tasks of third-party crates.
//!
//! Without it, and for a runtime that is only [attached](Watchdog::attach): the futures given to
//! [`Watchdog::watch`] and [`Watchdog::spawn`], and requests below a
//! [layer](Watchdog#method.layer). [`Watchdog::coverage`] reports which of the two applies.

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

/// The types of [`WatchLayer`] that a signature may have to name.
#[cfg(feature = "tower")]
pub mod layer {
    pub use crate::measure::layer::{ResponseFuture, WatchBody, WatchLayer, WatchService};
}

#[cfg(feature = "prometheus")]
pub use export::collector::Collector;

/// Compiles the code of the README.
#[cfg(all(doctest, feature = "server", feature = "spans"))]
#[doc = include_str!("../README.md")]
struct Readme;
