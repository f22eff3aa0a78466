//! Second floor: one thread that finds the polls that last too long.
//!
//! [`watcher`] reads the slots and carries out what [`scan`], [`suspect`], [`pause`], [`waits`], [`classify`] and [`overload`] decide; those are
//! pure functions of slots, threads and time, tested with made-up clocks.

pub(crate) mod classify;
mod driven;
pub(crate) mod examine;
pub(crate) mod growth;
pub(crate) mod live;
pub(crate) mod outcome;
pub(crate) mod overload;
pub(crate) mod pause;
pub(crate) mod poll_entry;
#[cfg(feature = "server")]
pub(crate) mod polling;
pub(crate) mod procfs;
pub(crate) mod scan;
pub(crate) mod shedding;
pub(crate) mod still;
pub(crate) mod suspect;
mod turns;
mod waits;
pub(crate) mod watcher;
pub(crate) mod workers;
