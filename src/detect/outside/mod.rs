//! Observation of workers from outside, while they are in no measured poll (stable mode).
//!
//! [`workers`] reads what the workers' threads do. [`observation`] is what it passes on, and
//! [`detector`] decides from it which workers are blocked.

pub(super) mod detector;
pub(super) mod observation;
pub(super) mod workers;
