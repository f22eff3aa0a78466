//! The attributes `#[pollwatch::main]` and `#[pollwatch::test]`. Use them through `pollwatch`
//! (feature `macros`): what they expand to calls that crate.

mod arguments;
mod duration;
mod expand;
mod function;
mod threshold_text;

use proc_macro::TokenStream;

/// Runs an async function on a runtime that pollwatch builds and watches, like `#[tokio::main]`.
///
/// ```ignore
/// #[pollwatch::main(listen = "127.0.0.1:9464")]
/// async fn main() {
///     println!("what blocks this service: http://127.0.0.1:9464");
/// }
/// ```
///
/// The function's body is the root future of the runtime. It is watched, and so are all tasks that
/// it spawns (with `tokio_unstable`), or what [`Watchdog::coverage`] says (in stable mode). Inside
/// it, [`current()`] is the watchdog, which stops when the function returns. [`layer()`], [`spawn`]
/// and [`FutureExt::watched`] use it also from threads and runtimes that nothing else watches.
///
/// # Arguments
///
/// | argument | meaning |
/// |---|---|
/// | `threshold = "10ms"` | the time from which a poll is a stall: `us`, `ms` or `s`; 10 ms by default |
/// | `listen = "127.0.0.1:9464"` | serves the live page, `/metrics` and others at this IP address and port (feature `server`); no server by default |
/// | `name = "main"` | the name of the runtime, in reports and as tokio's own; `main` by default |
/// | `flavor = "multi_thread"` | `multi_thread` (the default), `current_thread` or `local` |
/// | `worker_threads = 4` | the number of workers, with `multi_thread`; one for each CPU by default |
/// | `start_paused = true` | with `current_thread` or `local`, and tokio's feature `test-util` |
/// | `unhandled_panic = "shutdown_runtime"` | with `current_thread` or `local`, and `tokio_unstable` |
/// | `crate = "pollwatch"` | the path of pollwatch, where it was renamed or is exported by another crate |
///
/// For everything else use [`Watchdog::builder`] and [`Watchdog::runtime`].
///
/// # Environment
///
/// These variables are read when the function is called. Each wins over its argument. An empty one
/// counts as not set.
///
/// | variable | meaning |
/// |---|---|
/// | `POLLWATCH=off` | a runtime without anything of pollwatch (`on` is the default) |
/// | `POLLWATCH_THRESHOLD=20ms` | as `threshold` |
/// | `POLLWATCH_LISTEN=0.0.0.0:9464` | as `listen`, an IP address and a port; `off` means no server |
///
/// # What may fail
///
/// A variable with any other value prints one line that says so, and ends the process with exit
/// code 1 before the function starts. So does a runtime that tokio cannot build.
///
/// If the address is in use, or a thread of pollwatch cannot be started, one line on the standard
/// error says so, and the service starts without pages, or without pollwatch. No subscriber of
/// `tracing` exists at that time.
///
/// After the function has returned, the process waits for pollwatch's last reports, at most two
/// seconds.
///
/// [`Watchdog::coverage`]: https://docs.rs/pollwatch/latest/pollwatch/struct.Watchdog.html#method.coverage
/// [`Watchdog::builder`]: https://docs.rs/pollwatch/latest/pollwatch/struct.Watchdog.html#method.builder
/// [`Watchdog::runtime`]: https://docs.rs/pollwatch/latest/pollwatch/struct.Watchdog.html#method.runtime
/// [`FutureExt::watched`]: https://docs.rs/pollwatch/latest/pollwatch/trait.FutureExt.html#method.watched
/// [`current()`]: https://docs.rs/pollwatch/latest/pollwatch/fn.current.html
/// [`layer()`]: https://docs.rs/pollwatch/latest/pollwatch/fn.layer.html
/// [`spawn`]: https://docs.rs/pollwatch/latest/pollwatch/fn.spawn.html
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::main(arguments.into(), item.into()).into()
}

/// Runs an async test on a runtime of its own, like `#[tokio::test]`, and fails it when the event
/// loop was blocked.
///
/// ```ignore
/// #[pollwatch::test]
/// async fn the_report_does_not_block() {
///     assert_eq!(report().await, 42);
/// }
/// ```
///
/// The test fails when a poll kept the runtime for 50 ms or longer. The message has the stack, the
/// cause, and the advice. [`pollwatch::testing`] says what is measured in which mode. What is only
/// suspected, and what the machine kept from running, fails no test.
///
/// The function's body runs on the event loop of the default flavor, `current_thread`. With
/// `multi_thread` it runs on no worker, and may block; what it spawns may not.
///
/// Tests in one process have a watchdog each, which is [`current()`] inside the test. The
/// variables of [`#[pollwatch::main]`](macro@main) do not affect tests.
///
/// # Arguments
///
/// | argument | meaning |
/// |---|---|
/// | `threshold = "50ms"` | the time from which a poll fails the test; 50 ms by default, since polls of a debug build do not take that long by accident on a busy machine |
/// | `flavor = "current_thread"` | `current_thread` (the default), `multi_thread` or `local` |
/// | `worker_threads`, `start_paused`, `unhandled_panic`, `name`, `crate` | as for [`#[pollwatch::main]`](macro@main) |
///
/// [`pollwatch::testing`]: https://docs.rs/pollwatch/latest/pollwatch/testing/index.html
/// [`current()`]: https://docs.rs/pollwatch/latest/pollwatch/fn.current.html
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::test(arguments.into(), item.into()).into()
}
