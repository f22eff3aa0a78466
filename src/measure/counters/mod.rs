//! What each thread counts, by site and by route, and the queue of panics of tasks.

#[cfg(all(tokio_unstable, feature = "delays"))]
pub(crate) mod delays;
#[cfg(not(all(tokio_unstable, feature = "delays")))]
#[path = "delays_off.rs"]
pub(crate) mod delays;
pub(crate) mod panics;
pub(crate) mod routes;
pub(crate) mod sites;
