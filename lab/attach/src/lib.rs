//! What the measurements of `pollwatch attach` share: the ground truth that the target writes, the
//! reports of the program, and how one is matched with the other.

pub mod accuracy;
pub mod cpu;
pub mod matching;
pub mod report;
pub mod rng;
pub mod target;
pub mod truth;
