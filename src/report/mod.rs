//! Third floor, one half: turns stalls into log events, callbacks and a ring of recent ones. The book is kept on
//! the watchdog thread; everything that may take long happens on the teller's.

pub(crate) mod book;
pub(crate) mod log;
#[cfg(feature = "server")]
pub(crate) mod profile;
pub(crate) mod reason;
pub(crate) mod reporter;
pub(crate) mod sums;
pub(crate) mod tasks;
pub(crate) mod teller;
pub(crate) mod throttle;
