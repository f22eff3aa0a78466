//! Where user code enters the measurement: every function that runs in a poll starts here.

pub(crate) mod allow;
pub(crate) mod current_future;
pub(crate) mod delays;
pub(crate) mod future;
pub(crate) mod hooks;
pub(crate) mod poll;
#[cfg(feature = "tower")]
pub(crate) mod request;
#[cfg(feature = "spans")]
pub(crate) mod spans;
#[cfg(not(feature = "spans"))]
#[path = "spans_off.rs"]
pub(crate) mod spans;
pub(crate) mod task;
#[cfg(tokio_unstable)]
mod unpolled;
#[cfg(feature = "tower")]
pub(crate) mod unwatched;
#[cfg(feature = "tower")]
pub(crate) mod watched_request;
