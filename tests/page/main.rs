//! The live page in a real browser. Prints that it is skipped where there is none.

use test_support as support;

mod access;
mod browser;
mod example;
mod fixture;
mod names;
mod states;
