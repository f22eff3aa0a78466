//! Files that were found and could not be used.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::error::SymbolFileError;

/// The most problems of one binary that are kept. The others are counted.
const MAX_KEPT: usize = 8;

/// The problems of one binary's files.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    new: Vec<String>,
    unusable_files: u64,
    missed_split_unit: bool,
}

impl Problems {
    /// Adds a file that cannot be used.
    pub(super) fn add(&self, error: SymbolFileError) {
        self.with(|list| {
            list.unusable_files += 1;
            list.add(error.to_string());
        });
    }

    /// Adds a `.dwo` file that is nowhere. One text stands for all of a binary.
    pub(super) fn miss_split_unit(&self, name: &Path) {
        self.with(|list| {
            if !std::mem::replace(&mut list.missed_split_unit, true) {
                list.add(format!(
                    "split debug information is missing: neither a .dwp file beside the program nor {} was found. \
                     Inlined functions have no names",
                    name.display()
                ));
            }
        });
    }

    /// Returns whether a `.dwo` file was nowhere so far.
    #[cfg(all(
        feature = "capture",
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    pub(crate) fn misses_split_unit(&self) -> bool {
        self.with(|list| list.missed_split_unit)
    }

    /// Returns the problems since the last call, and the number of files that could not be used
    /// since then.
    pub(crate) fn take(&self) -> (Vec<String>, u64) {
        self.with(|list| (std::mem::take(&mut list.new), std::mem::take(&mut list.unusable_files)))
    }

    fn with<T>(&self, f: impl FnOnce(&mut List) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl List {
    fn add(&mut self, text: String) {
        if self.new.len() < MAX_KEPT {
            self.new.push(text);
        }
    }
}
