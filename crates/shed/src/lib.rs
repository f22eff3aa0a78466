//! Load shedding for services on [tokio]: while a runtime is overloaded, some requests are answered
//! `503` at once, so that the others are answered in time.
//!
//! When requests need more time than a runtime's workers have, tasks queue, and *every* route gets
//! slow, the health check included. [`pollwatch`] measures the schedule delay, the time that a task
//! which is ready to run waits for its poll. This crate is a [tower] layer that rejects requests by
//! that delay. Nobody has to find out how many requests the service can serve at once or in a
//! second.
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
//! [`Shed`] has the settings, and describes when requests are rejected, and which. The first
//! rejection and the stop of shedding are logged (target `pollwatch::shed`).
//! `pollwatch_route_shed_total` counts the rejected requests by route (feature `prometheus`,
//! `Shed::collector`).
//!
//! The example `shed` compares the latency of a route that does not block with and without the
//! layer: `cargo run --release -p pollwatch-shed --features prometheus --example shed`.
//!
//! # Cost
//!
//! The layer costs one relaxed atomic load for each request while no runtime is late
//! (has a delay above the high watermark, or has not yet stopped shedding). While
//! requests arrive, one thread for all layers of the process wakes up each 10 ms. The watchdog
//! wakes its probe task each 20 ms instead of each 100 ms: these are at most 100 polls a second of
//! some 100 ns each, in addition to what it costs to wake an idle worker. An idle service has no
//! wake-ups.
//!
//! # Limits
//!
//! The layer knows the runtimes that the watchdog watches. It attaches a runtime that the watchdog
//! does not watch yet, by the request that wakes the layer's thread. The thread sleeps until the
//! first request, and again from a second after each wake on while no runtime is late.
//! The layer needs up to half a second to find a new runtime.
//!
//! The watchdog measures the delay of a runtime while it knows that the runtime polls. In stable
//! mode (tokio without `tokio_unstable`) it knows this of the multi-thread runtimes that it has
//! built, and of all runtimes whose requests pass `Watchdog::layer()`. For other runtimes, put that
//! layer outside of this one, as above.
//!
//! [tokio]: https://tokio.rs
//! [tower]: https://docs.rs/tower

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
pub use service::{ResponseFuture, ShedLayer, ShedService};

/// The README's code compiles.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
