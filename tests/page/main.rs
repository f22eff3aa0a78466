//! The live page in a real browser. Skipped, with a word, where there is none.

use test_support as support;

mod access;
mod browser;
mod example;
mod names;
mod scene;
mod states;
