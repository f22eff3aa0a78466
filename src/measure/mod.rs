//! Measures every poll, on the user's threads, and publishes what each thread is doing.
//!
//! The folders form an order, and a folder imports only those listed before it:
//!
//! ```text
//! primitives   clock, histogram, frame tags, sites and routes, span slot, wake-up of the watchdog
//! counters     what a thread counts by site and by route
//! thread       the state of one thread: slot, slow-poll ring, counters; and how a thread finds it
//! runtime      the meter of a watchdog, its runtimes, their probes and worker threads
//! entry        hooks, wrapped futures, tasks, scopes, requests, spans: what runs in a poll
//! layer        the tower layer
//! ```
//!
//! Two cycles are left. A thread finds its meter, and a meter lists its threads (`thread::local`
//! and `runtime`). A thread that is registered gets the span slot that it has filled
//! before (`thread` and `entry::spans`).
//!
//! The other layers reach what the threads publish ([`ThreadState`](thread::ThreadState)) through a
//! [`Meter`](runtime::meter::Meter), and never a thread's private handle (`LocalHandle`).

pub(crate) mod counters;
pub(crate) mod entry;
#[cfg(feature = "tower")]
pub(crate) mod layer;
pub(crate) mod primitives;
pub(crate) mod runtime;
pub(crate) mod thread;
