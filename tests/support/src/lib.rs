//! Helpers that pollwatch's integration tests share.
//!
//! Waiting is always bounded by [`TIMEOUT`] and fails with a message; nothing here sleeps and
//! hopes. A test that only holds on a machine with a CPU to spare runs under [`undisturbed`].

mod blocking;
pub mod external;
mod http;
mod metrics;
mod processes;
mod repository;
mod runtimes;
pub mod schema;
#[cfg(target_os = "linux")]
pub mod sigstop;
mod stalls;
mod waiting;
pub mod watched;

pub use blocking::*;
pub use http::*;
pub use metrics::Metrics;
pub use processes::*;
pub use repository::*;
pub use runtimes::*;
pub use stalls::*;
pub use waiting::*;
