//! What a process has loaded: its modules, the functions in them, and what could not be read.

use std::path::PathBuf;

use super::{Process, ReadLosses};
use crate::capture::{ModuleFunctions, search_all};
use crate::symbols::foreign;

impl Process {
    /// Returns the functions of all modules that `kind` wants, with their addresses in memory.
    ///
    /// `kind` is called with the mangled name of each symbol that contains `part`. A stripped
    /// module has no symbols, unless its debug file is installed:
    /// [`has_symbols`](ModuleFunctions::has_symbols) says so. The addresses are valid as long as
    /// [`version`](Self::version) stays.
    ///
    /// ```
    /// use pollwatch_stack::Process;
    ///
    /// /// Prints where a program polls its tasks, as far as it has symbols.
    /// fn print_polls(process: &Process) {
    ///     let is_poll = |name: &str| name.contains("3raw4poll").then_some(());
    ///     for found in process.find_functions("4poll", is_poll) {
    ///         if !found.has_symbols && found.is_program {
    ///             println!("{} is stripped", found.module.path.display());
    ///         }
    ///         found.functions.iter().for_each(|(range, ())| println!("{}", range.start));
    ///     }
    /// }
    /// ```
    ///
    /// # Cost
    ///
    /// As [`find_functions`](crate::find_functions), for each module.
    pub fn find_functions<K: Clone>(&self, part: &str, kind: impl Fn(&str) -> Option<K>) -> Vec<ModuleFunctions<K>> {
        search_all(&self.modules, part, kind)
    }

    /// Returns the paths of the modules: the executable and the libraries.
    pub fn module_paths(&self) -> Vec<PathBuf> {
        self.modules.list.iter().map(|module| module.info.path.clone()).collect()
    }

    /// Returns what could not be read so far, and what was left out.
    ///
    /// ```
    /// use pollwatch_stack::Process;
    ///
    /// fn print_losses(process: &Process) {
    ///     let losses = process.losses();
    ///     if losses.memory > 0 {
    ///         println!("memory of the process did not come in time, {} times", losses.memory);
    ///     }
    /// }
    /// ```
    pub fn losses(&self) -> ReadLosses {
        let modules = (self.modules.without_tables() + self.unsearched) as u64;
        ReadLosses { memory: self.memory.lost_reads(), files: foreign::lost_reads(), modules }
    }
}
