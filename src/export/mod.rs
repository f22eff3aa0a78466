//! The exporters: a snapshot as Prometheus metrics, and the HTTP pages.
//!
//! They use plain data only. The traits in [`source`] and [`page_source`] provide it, and the
//! watchdog implements them. The exporters run on the server's thread, or on the thread that calls
//! them.

#[cfg(feature = "server")]
mod cached;
#[cfg(feature = "prometheus")]
pub(crate) mod collector;
#[cfg(feature = "prometheus")]
pub(crate) mod families;
#[cfg(feature = "server")]
mod incidents;
#[cfg(feature = "server")]
pub(crate) mod listen_address;
#[cfg(feature = "server")]
pub(crate) mod live;
#[cfg(feature = "prometheus")]
mod outside;
#[cfg(feature = "server")]
mod page;
#[cfg(feature = "server")]
pub(crate) mod page_source;
#[cfg(feature = "server")]
mod pages;
#[cfg(feature = "server")]
mod profile;
#[cfg(all(feature = "axum", feature = "server"))]
pub(crate) mod router;
#[cfg(feature = "server")]
pub(crate) mod server;
#[cfg(feature = "prometheus")]
pub(crate) mod source;
#[cfg(feature = "prometheus")]
mod table;
#[cfg(feature = "server")]
mod threads;
#[cfg(feature = "prometheus")]
pub(crate) mod user_collectors;
