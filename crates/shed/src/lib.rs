//! Load shedding for services on [tokio]: while a runtime is overloaded, some requests are answered
//! `503` at once, so that the others are answered in time.
//!
//! When more is asked of a runtime than its workers can do, tasks queue, and *every* route gets
//! slow, the health check included. [`pollwatch`] measures how long a task that is ready to run
//! waits for its poll. This crate is a tower layer that rejects requests by that delay: it needs no
//! limit of concurrency or rate that somebody would have to find out.
//!
//! ```
//! use axum::{Router, routing::get};
//! use pollwatch::Watchdog;
//! use pollwatch_shed::Shed;
//!
//! let watchdog = Watchdog::builder().start()?;
//! let app = Router::new().route("/report/{id}", get(|| async { "a report" }));
//! let app = app.layer(Shed::new().layer(&watchdog)).layer(watchdog.layer());
//! # drop::<Router>(app);
//! # Ok::<(), pollwatch::Error>(())
//! ```
//!
//! [`Shed`] has the settings and says when requests are rejected, and which. The start and the stop
//! of shedding are logged (target `pollwatch::shed`). Rejected requests are counted by route in
//! `pollwatch_route_shed_total` (feature `prometheus`, `Shed::collector`).
//!
//! The example `shed` shows what it does for the routes that do not block:
//! `cargo run --release -p pollwatch-shed --features prometheus --example shed`.
//!
//! # Cost
//!
//! One relaxed atomic load for each request while no runtime is late. While requests come in, a
//! thread of its own wakes up each 10 ms, and the watchdog wakes its probe task each 20 ms instead of
//! each 100 ms: at most 100 polls a second of some 100 ns, with what waking an idle worker takes. An
//! idle service has no wake-ups.
//!
//! # Limits
//!
//! The layer sees the runtimes that the watchdog watches, of which it attaches that of the first
//! request itself. A runtime that is built later is known within half a second.
//!
//! The watchdog measures the delay of runtimes that it sees polling. In stable mode these are the
//! multi-thread runtimes that it has built, and any runtime whose requests pass
//! `Watchdog::layer()`: put that layer outside of this one, as above.
//!
//! [tokio]: https://tokio.rs

#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
#[cfg(feature = "prometheus")]
mod collector;
mod config;
mod first_poll;
mod log;
mod monitor;
mod overload;
mod policy;
mod random;
mod response;
mod routes;
mod service;
mod sync;
#[cfg(all(test, not(pollwatch_loom)))]
mod testing;
mod watermarks;

#[cfg(feature = "prometheus")]
pub use collector::Collector;
pub use config::Shed;
pub use service::{ResponseFuture, ShedBody, ShedLayer, ShedService};

/// The README's code compiles.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
