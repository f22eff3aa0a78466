//! Symbols of binaries: from offsets to functions, files and lines, by files alone.
//!
//! Nothing here knows of memory or threads. [`Tables`] finds the debug information of one binary,
//! in it or split off from it. [`inlined`] turns what it says of an offset into frames.

pub(crate) mod checksums;
mod elf;
mod error;
pub(crate) mod file;
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) mod foreign;
#[cfg(not(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
#[path = "foreign_off.rs"]
mod foreign;
mod inflate;
pub(crate) mod inlined;
mod names;
mod ownership;
mod pages;
mod problems;
mod reader;
pub(crate) mod roots;
mod separate;
pub(crate) mod source;
mod split;
mod symbol_file;
mod symbol_table;
pub(crate) mod tables;

pub use error::SymbolFileError;
use problems::Problems;
pub use symbol_file::SymbolFile;

#[cfg(all(test, not(pollwatch_loom), target_os = "linux"))]
mod tests;
