//! The live page in a real browser. Prints that it is skipped where there is none.

#[path = "../it/support.rs"]
mod support;

mod access;
mod browser;
mod example;
mod fixture;
mod names;
mod states;
