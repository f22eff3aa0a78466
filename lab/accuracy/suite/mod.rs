//! How often pollwatch is wrong, measured against what truly happened. `run.rs` runs all of it and prints the tables; `tests/accuracy`
//! includes the same modules and runs a short form.
//!
//! Each block that is injected writes down what it did, by its own clock. Around it stands the poll that it is part of, noted by hooks
//! (or by a wrapper) that lie around pollwatch's own: what pollwatch measures lies between the two. A report is false only if even the
//! outer time is too short, and a block is missed only if the inner one is long enough: whatever the machine does to a thread in between
//! is neither's fault, and needs no tolerance.

pub(crate) mod draw;
pub(crate) mod inject;
pub(crate) mod journal;
pub(crate) mod judge;
pub(crate) mod kinds;
pub(crate) mod matching;
pub(crate) mod modes;
pub(crate) mod noise;
pub(crate) mod overload;
pub(crate) mod promise;
pub(crate) mod scene;
pub(crate) mod sentinel;
pub(crate) mod table;
pub(crate) mod truth;
pub(crate) mod unwatched;
