//! Reads the counters, slots and stores, and returns plain data. Implements the sources that
//! `export` defines.

mod incidents;
#[cfg(feature = "prometheus")]
mod metrics;
#[cfg(feature = "server")]
mod pages;
mod snapshot;
#[cfg(feature = "server")]
mod workers;

pub(super) use snapshot::snapshot;
