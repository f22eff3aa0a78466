//! Finds the handlers of an [actix-web] service that block their worker, while they block.
//!
//! Each worker of a `HttpServer` is one thread with a current-thread runtime. While a handler
//! blocks that thread, none of the worker's other connections is served, and nothing in their
//! handlers shows why. With this middleware, [`pollwatch`] measures each poll of each request. It
//! reports a poll that takes 10 ms or longer with its route, the function, the line, the reason and
//! the remedy, in the log and in metrics, while it lasts.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web};
//! use pollwatch::Watchdog;
//! use pollwatch_actix::Watch;
//!
//! #[actix_web::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let watchdog = Watchdog::builder().listen("127.0.0.1:9464").start()?;
//!     let app = move || {
//!         App::new().route("/report/{id}", web::get().to(report)).wrap(Watch::new(&watchdog))
//!     };
//!     HttpServer::new(app).bind("127.0.0.1:8080")?.run().await?;
//!     Ok(())
//! }
//!
//! async fn report() -> &'static str {
//!     std::thread::sleep(std::time::Duration::from_millis(200)); // blocks the worker
//!     "a report\n"
//! }
//! ```
//!
//! `listen` needs pollwatch's feature `server`, and stacks need `capture`. Name them where your
//! `Cargo.toml` names pollwatch; this crate needs neither.
//!
//! # What is measured
//!
//! - Handlers, extractors, and every middleware that is within this one. actix-web calls the
//!   middleware that was added last first: call `wrap(Watch::new(..))` last, and all others are
//!   within it.
//! - Streamed bodies of responses. actix polls them after the handler has returned; the middleware
//!   wraps them, so that their polls count for the same route. A WebSocket of `actix-web-actors` is
//!   such a body, so that its actor is measured under its route.
//! - Panics and cancelled requests: `pollwatch_route_requests_total` has the labels `panicked` and
//!   `cancelled` for them.
//! - `web::block` and `spawn_blocking` are for blocking work: what runs there is never reported.
//!
//! The route is the pattern of the resource, `/report/{id}`, with the prefixes of its scopes. A
//! request that no resource matches counts as `unmatched`, so clients cannot make up names. Before
//! actix routes a request, the pattern is found by the path alone, which ignores guards. Where
//! several scopes with guards match one path, the first of them names the request.
//!
//! # What is not measured
//!
//! tokio's task hooks never fire for what actix runs: it spawns its tasks on a `LocalSet` or a
//! `LocalRuntime`, on runtimes that it builds itself. So only what passes this middleware is
//! measured, with or without `tokio_unstable`. Not measured are:
//!
//! - tasks of `actix_web::rt::spawn`, such as the session of a WebSocket of `actix-ws`. Wrap their
//!   future to have them measured: `rt::spawn(watchdog.watch(session))`. They are reported with the
//!   line of that call, without a route. A future that is `Send` can be given to
//!   `watchdog.spawn`, and is then reported as spawned under the route of its request.
//! - actors, the factory of the app, and middleware outside of this one.
//! - what actix does itself: it parses requests and writes responses in the task of the connection.
//!
//! Of all this, on Linux and with stacks, what blocks the worker in a system call is still found,
//! if the program has symbols: the watchdog observes the worker's thread from outside, and reports
//! the stall as `observed`, with its stack and without a route. What computes there is not found.
//!
//! The middleware attaches the runtime of each worker when the worker starts.
//! [`Watchdog::coverage`] lists them as `actix-1`, `actix-2` and so on. Which worker has which
//! number is not defined. While a worker is busy with requests, the schedule delay of its runtime
//! is measured as well, behind whatever the worker does.
//!
//! A watchdog distinguishes 63 runtimes. actix starts one worker for each core, unless
//! `HttpServer::workers` is set. On a host with 64 or more cores, the stalls of the workers beyond
//! the 63rd are not reported. That is logged once, and `coverage` has their number as
//! `unnamed_runtimes`.
//!
//! A client that closes its side of the connection does not cancel its request, unless
//! `HttpServer::h1_allow_half_closed(false)` is set.
//!
//! # Cost
//!
//! Each poll of a request or of its body takes two readings of the clock; actix polls even a whole
//! body twice. Each request takes one string for its pattern and the search for it, which actix
//! does not keep, one entry in its extensions, a lookup in a small table of the thread, three
//! reference counts and two counters.
//! `cargo bench -p pollwatch-actix` measures it.
//!
//! [actix-web]: https://docs.rs/actix-web
//! [`Watchdog::coverage`]: pollwatch::Watchdog::coverage

#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod middleware;

pub use body::WatchBody;
pub use middleware::{ResponseFuture, Watch, WatchMiddleware};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
