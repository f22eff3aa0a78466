//! Workers observed from outside, while they are in no measured poll (stable mode): [`workers`]
//! reads what their threads do, and [`detector`] decides which of them are blocked.

pub(super) mod detector;
pub(super) mod workers;
