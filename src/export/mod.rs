//! The exporters: a snapshot as Prometheus metrics, and the HTTP pages.
//!
//! They are built from plain data only, which they get from the sources that [`source`] and
//! [`page_source`] define and the watchdog implements. They run on the thread that asks or on the
//! server's own, never on a worker unless the application calls them there.

#[cfg(feature = "server")]
mod cached;
#[cfg(feature = "prometheus")]
pub(crate) mod collector;
#[cfg(feature = "prometheus")]
pub(crate) mod families;
#[cfg(feature = "server")]
mod health;
#[cfg(feature = "server")]
pub(crate) mod live;
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
#[cfg(feature = "prometheus")]
pub(crate) mod user_collectors;
