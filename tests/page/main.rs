//! The live page in a real browser. Skipped, with a word, where there is none.

#[path = "../it/support.rs"]
mod support;

mod access;
mod browser;
mod example;
mod names;
mod scene;
mod states;
