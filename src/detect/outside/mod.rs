//! Observation of workers from outside, while they are in no measured poll (stable mode).
//!
//! [`workers`] reads what the workers' threads do. [`observation`] is what it passes on, and
//! [`detector`] decides from it which workers are blocked. It asks the [`inspector`] for what costs
//! more: the stack, in which [`functions`] recognises tokio's, and the proof of [`drivers`].
//!
//! [`stalls`] has the lives of the stalls, from start to end. The detector shares it with that of
//! other processes (`attach`).

mod current_thread;
pub(super) mod detector;
mod drivers;
pub(crate) mod functions;
pub(super) mod inspector;
pub(crate) mod observation;
pub(crate) mod stalls;
mod unpublished;
mod wait_depths;
pub(super) mod workers;
