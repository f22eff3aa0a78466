//! Plain data that every layer uses: identifiers, units, causes, stalls, events, stacks,
//! snapshots, coverage.
//!
//! Every other layer may import this module; it imports none of them.

#[cfg(feature = "server")]
pub(crate) mod activity;
pub(crate) mod cause;
pub(crate) mod coverage;
pub(crate) mod event;
pub(crate) mod id;
pub(crate) mod lag;
#[cfg(feature = "server")]
pub(crate) mod profile;
pub(crate) mod site;
pub mod snapshot;
pub(crate) mod stall;
pub(crate) mod time;
