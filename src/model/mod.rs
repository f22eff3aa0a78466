//! Plain data that every layer speaks: causes, stalls, stacks, snapshots, coverage.
//!
//! Every other layer may import this module; it imports none of them.

pub(crate) mod cause;
pub(crate) mod coverage;
pub mod snapshot;
pub(crate) mod stall;
