//! Tests of the live page in a real browser. Where there is none, they report that they were
//! skipped.

use test_support as support;

mod access;
mod browser;
mod example;
mod fixture;
mod names;
mod states;
