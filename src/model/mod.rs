//! Plain data that every layer speaks: causes, stalls, stacks, snapshots, coverage.
//!
//! Every other layer may import this module; it imports none of them.

#[cfg(feature = "server")]
pub(crate) mod activity;
pub(crate) mod cause;
pub(crate) mod coverage;
#[cfg(feature = "server")]
pub(crate) mod profile;
pub mod snapshot;
pub(crate) mod stall;
