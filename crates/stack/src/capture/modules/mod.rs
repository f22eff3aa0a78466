//! The loaded modules: the addresses of their code, and copies of their unwind tables.
//!
//! The tables are copied because a library may be unloaded at any time.

mod loader;
mod table;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use framehop::{ExplicitModuleSectionInfo, Module as FramehopModule, Unwinder, UnwinderNative};

use super::guard::{lock, lock_within};
use loader::{LoadCount, LoadedObject};
use table::SORTED;
pub(crate) use table::Table;

/// One loaded object: the executable or a library.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) path: PathBuf,
    /// The difference between an address in memory and the one in the file.
    pub(crate) base: u64,
    pub(crate) range: Range<u64>,
    code: Vec<Range<u64>>,
    /// The copy of `.eh_frame_hdr`.
    header: Table,
    /// The copy of `.eh_frame`.
    frames: Table,
}

/// The latest list of modules. The lock is held while they are read.
static LATEST: Mutex<Option<Arc<Modules>>> = Mutex::new(None);

/// The time for which another thread may read the modules. Large binaries take some 100 ms.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// Whether the lock of [`LATEST`] was held for longer than [`READ_PATIENCE`].
static IS_ABANDONED: AtomicBool = AtomicBool::new(false);

/// Returns whether modules have been read and no thread is reading them now.
pub(crate) fn are_read() -> bool {
    LATEST.try_lock().is_ok_and(|latest| latest.is_some())
}

/// Acts as if the unwind tables were being read, until the result is dropped. For tests of callers.
#[doc(hidden)]
pub fn hold_unwind_tables() -> impl Sized {
    lock(&LATEST)
}

/// All modules of the process, and the unwinder made of their tables.
pub(crate) struct Modules {
    pub(crate) list: Vec<Module>,
    pub(super) unwinder: UnwinderNative<Arc<[u8]>, framehop::MayAllocateDuringUnwind>,
    version: LoadCount,
}

impl Modules {
    /// Returns the modules that are loaded now. They are read again when something was loaded or
    /// unloaded since. The whole process shares them, except in a forked child whose parent was
    /// reading them at the fork: there each call reads them.
    pub(crate) fn current() -> Arc<Modules> {
        let limit = if IS_ABANDONED.load(Ordering::Relaxed) { Duration::ZERO } else { READ_PATIENCE };
        let Some(mut latest) = lock_within(&LATEST, limit) else {
            IS_ABANDONED.store(true, Ordering::Relaxed);
            return Arc::new(Modules::load(loader::count()));
        };
        let version = loader::count();
        match &*latest {
            Some(modules) if modules.version == version => modules.clone(),
            _ => latest.insert(Arc::new(Modules::load(version))).clone(),
        }
    }

    fn load(version: LoadCount) -> Modules {
        let mut modules = Modules { list: Vec::new(), unwinder: UnwinderNative::new(), version };
        for object in loader::objects() {
            modules.add(object);
        }
        modules
    }

    /// Adds an object, unless it has no loaded segment.
    fn add(&mut self, object: LoadedObject) -> Option<()> {
        let start = object.segments.iter().map(|segment| segment.range.start).min()?;
        let end = object.segments.iter().map(|segment| segment.range.end).max()?;
        let code = object.segments.iter().filter(|segment| segment.is_code);
        let code = code.map(|segment| segment.range.clone()).collect();
        let tables = object.header.and_then(|header| table::copy_tables(header, &object.segments));
        let (header, frames) = tables.unwrap_or_default();
        self.push(Module { path: object.path, base: object.base, range: start..end, code, header, frames });
        Some(())
    }

    fn push(&mut self, module: Module) {
        if !module.frames.bytes.is_empty() {
            let file = |address: u64| address.wrapping_sub(module.base);
            let section = |table: &Table| Some(file(table.at)..file(table.at) + table.bytes.len() as u64);
            let info = ExplicitModuleSectionInfo {
                base_svma: 0,
                text_svma: module.code.first().map(|c| file(c.start)..file(c.end)),
                eh_frame_svma: section(&module.frames),
                eh_frame: Some(module.frames.bytes.clone()),
                eh_frame_hdr_svma: section(&module.header),
                eh_frame_hdr: Some(module.header.bytes.clone()),
                ..Default::default()
            };
            let name = module.path.to_string_lossy().into_owned();
            self.unwinder.add_module(FramehopModule::new(name, module.range.clone(), module.base, info));
        }
        self.list.push(module);
    }

    /// Returns these modules and one more, which is all code, with the given tables.
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(super) fn with_library(&self, range: Range<u64>, header: Table, frames: Table) -> Modules {
        let mut modules = Modules { list: Vec::new(), unwinder: UnwinderNative::new(), version: self.version };
        // The smaller modules suffice as its neighbours, and are cheap to copy.
        let small = self.list.iter().filter(|module| module.frames.bytes.len() < 1 << 20);
        small.cloned().for_each(|module| modules.push(module));
        let (path, code) = (PathBuf::from("library"), vec![range.clone()]);
        modules.push(Module { path, base: range.start, range, code, header, frames });
        modules
    }

    /// Returns the module that contains an address.
    pub(crate) fn find(&self, address: u64) -> Option<&Module> {
        self.list.iter().find(|module| module.range.contains(&address))
    }

    /// Returns whether there is code at an address.
    pub(crate) fn is_code(&self, address: u64) -> bool {
        self.find(address).is_some_and(|module| module.code.iter().any(|code| code.contains(&address)))
    }
}

impl Module {
    /// Returns whether this module is the library that unwinds panics (libgcc).
    pub(crate) fn is_unwinder(&self) -> bool {
        self.path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libgcc_s."))
    }

    /// Returns the function that contains an address, by the sorted table of `.eh_frame_hdr`. Code
    /// without unwind information (parts of `clone3`) belongs to no function.
    pub(crate) fn function(&self, address: u64) -> Option<Range<u64>> {
        let header = &self.header;
        if header.bytes.get(..4)? != SORTED {
            return None;
        }
        let count = header.word(8)? as usize;
        let start = |i: usize| header.target(12 + i * 8, header.at).unwrap_or(u64::MAX);
        let mut range = 0..count;
        while range.len() > 1 {
            let middle = range.start.midpoint(range.end);
            if start(middle) <= address { range.start = middle } else { range.end = middle }
        }
        let function = start(range.start)..self.end(range.start, start(range.start))?;
        function.contains(&address).then_some(function)
    }

    /// Returns the end of the function at `index` in the sorted table. Its start and its length
    /// follow two words in `.eh_frame`.
    fn end(&self, index: usize, start: u64) -> Option<u64> {
        let entry = self.header.target(12 + index * 8 + 4, self.header.at)?;
        let at = usize::try_from(entry.checked_sub(self.frames.at)?).ok()?;
        // In another encoding the start reads as a different address. Then the end is unknown.
        let is_expected_encoding = self.frames.target(at + 8, entry + 8) == Some(start);
        let length = u64::from(self.frames.word(at + 12)?);
        Some(if is_expected_encoding { start.saturating_add(length) } else { u64::MAX })
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::symbols::EXECUTABLE;
    use super::*;

    #[test]
    fn module_of_this_code_is_found() {
        let modules = Modules::current();
        let here = module_of_this_code_is_found as *const () as u64;
        let module = modules.find(here).expect("this code is loaded");
        assert!(modules.is_code(here));
        assert!(!modules.is_code(8));
        assert_eq!(module.path, PathBuf::from(EXECUTABLE));
        let function = module.function(here + 3).expect("this function can be unwound");
        assert_eq!(function.start, here);
        assert!(module.function(function.end).is_none_or(|next| next.start == function.end));
        assert_eq!(module.function(0), None);
        assert_eq!(module.function(module.range.end - 1), None, "no code");
        let version = modules.version;
        assert!(Arc::ptr_eq(&Modules::current(), &modules), "nothing was loaded since: {version:?}");
    }
}
