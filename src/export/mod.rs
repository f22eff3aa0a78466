//! Third floor, other half: everything that is known, as plain data, as Prometheus metrics and as pages. Runs on the thread that
//! asks, or on the server's own; never on a worker unless the user asks from there.

#[cfg(feature = "prometheus")]
pub(crate) mod collector;
#[cfg(feature = "prometheus")]
pub(crate) mod families;
#[cfg(feature = "server")]
pub(crate) mod health;
#[cfg(feature = "server")]
mod kept;
#[cfg(feature = "server")]
pub(crate) mod live;
#[cfg(feature = "server")]
mod page;
#[cfg(feature = "server")]
mod pages;
#[cfg(feature = "server")]
pub(crate) mod profile;
#[cfg(all(feature = "axum", feature = "server"))]
pub(crate) mod router;
#[cfg(feature = "server")]
pub(crate) mod server;
#[cfg(feature = "prometheus")]
pub(crate) mod table;
