//! The loaded modules: the addresses of their code, and copies of their unwind tables.
//!
//! The tables are copied because a library may be unloaded at any time.

#[cfg(target_arch = "x86_64")]
mod call_sites;
#[cfg(target_arch = "x86_64")]
mod frame_entry;
mod loader;
mod object;
mod pointer_authentication;
mod table;
mod work;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use framehop::{ExplicitModuleSectionInfo, Module as FramehopModule, Unwinder, UnwinderNative};

use super::guard::{lock, lock_within};
use super::memory;
#[cfg(target_arch = "aarch64")]
use super::return_address::CallerIndex;
use super::symbolizer::EXECUTABLE;
use super::unwind::ReadCode;
use crate::module::build_id_of_notes;
use crate::{BuildId, Module};
#[cfg(target_arch = "x86_64")]
pub(crate) use call_sites::Cleanup;
#[cfg(target_arch = "x86_64")]
pub(crate) use frame_entry::{FrameEntry, SavedRegister};
use loader::LoadCount;
pub(crate) use object::{LoadedObject, ObjectFiles, ObjectOwner, OtherOwner, ProgramHeader};
pub(crate) use table::Table;
use table::{MAX_TABLE, SORTED, TableError, UnwindTables};
pub(crate) use work::UnwindWork;

/// One loaded object: the executable or a library.
#[derive(Clone, Debug)]
pub(crate) struct LoadedModule {
    /// The path by which the loader knows it.
    pub(crate) path: PathBuf,
    pub(crate) info: Arc<Module>,
    /// The difference between an address in memory and the one in the file.
    pub(crate) base: u64,
    pub(crate) range: Range<u64>,
    /// The loaded segments, in the order of the program headers.
    segments: Vec<Range<u64>>,
    code: Vec<Range<u64>>,
    /// The copy of `.eh_frame_hdr`.
    header: Table,
    /// The copy of `.eh_frame`.
    frames: Table,
    /// True if the tables were not copied, because they would take too many bytes.
    is_cut: bool,
    pub(crate) files: ObjectFiles,
}

/// The most bytes of notes that are searched for a build id.
const MAX_NOTES: u64 = 64 << 10;

/// The bytes of all copied tables of another process. A program of 100 MB has tables of some 5 MB.
const MAX_TABLES: u64 = 128 << 20;

/// The latest list of modules. The lock is held while they are read.
static LATEST: Mutex<Option<Arc<Modules>>> = Mutex::new(None);

/// The time for which another thread may read the modules. Large binaries take some 100 ms.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// True if the lock of [`LATEST`] was held for longer than [`READ_PATIENCE`], and has not been free
/// since.
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
    pub(crate) list: Vec<LoadedModule>,
    pub(super) unwinder: UnwinderNative<Arc<[u8]>, framehop::MayAllocateDuringUnwind>,
    version: LoadCount,
    /// True for those of another process, whose tables may be made to harm the reader.
    pub(super) is_foreign: bool,
    #[cfg(target_arch = "aarch64")]
    pub(super) callers: CallerIndex,
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
        IS_ABANDONED.store(false, Ordering::Relaxed);
        let version = loader::count();
        match &*latest {
            Some(modules) if modules.version == version => modules.clone(),
            _ => latest.insert(Arc::new(Modules::load(version))).clone(),
        }
    }

    fn load(version: LoadCount) -> Modules {
        let mut modules = Modules::new(version);
        for object in loader::objects() {
            modules.add(object, MAX_TABLE, &memory::read);
        }
        modules
    }

    fn new(version: LoadCount) -> Modules {
        Modules {
            list: Vec::new(),
            unwinder: UnwinderNative::new(),
            version,
            is_foreign: false,
            #[cfg(target_arch = "aarch64")]
            callers: CallerIndex::default(),
        }
    }

    /// Returns the objects of another process, whose memory `read` reads. What `previous` has of
    /// them is not read again.
    pub(crate) fn of_objects(objects: Vec<LoadedObject>, previous: &Modules, read: ReadCode<'_>) -> Modules {
        let mut modules = Modules::of_another_process();
        for object in objects {
            match previous.list.iter().find(|module| module.is(&object, read)) {
                Some(module) => modules.push(module.clone()),
                None => drop(modules.add(object, MAX_TABLES.saturating_sub(modules.table_bytes()), read)),
            }
        }
        modules
    }

    /// Returns whether these modules are the objects, which were described again.
    pub(crate) fn are(&self, objects: &[LoadedObject], read: ReadCode<'_>) -> bool {
        self.list.len() == objects.len() && self.list.iter().zip(objects).all(|(old, object)| old.is(object, read))
    }

    /// Returns the bytes of all copied tables.
    fn table_bytes(&self) -> u64 {
        self.list.iter().map(|module| (module.header.bytes.len() + module.frames.bytes.len()) as u64).sum()
    }

    /// Returns the number of modules whose tables were left out because they take too many bytes.
    /// Stacks end in them.
    pub(crate) fn without_tables(&self) -> usize {
        self.list.iter().filter(|module| module.is_cut).count()
    }

    /// Returns no modules of another process.
    pub(crate) fn of_another_process() -> Modules {
        Modules { is_foreign: true, ..Modules::new(LoadCount::default()) }
    }

    /// Adds an object, unless it has no loaded segment. `limit` is that of the bytes of its tables.
    fn add(&mut self, object: LoadedObject, limit: u64, read: ReadCode<'_>) -> Option<()> {
        let range = object.range()?;
        let code = object.segments.iter().filter(|segment| segment.is_code);
        let code = code.map(|segment| segment.range.clone()).collect();
        let copy = |header| table::copy_tables(header, &object.segments, limit, read);
        let tables = object.header.clone().map_or(Err(TableError::Unusual), copy);
        let is_cut = tables.as_ref().is_err_and(|error| *error == TableError::TooLarge);
        let UnwindTables { header, frames } = tables.unwrap_or_default();
        let info = Arc::new(Module { path: file_path(&object.path), build_id: build_id(&object.notes, read) });
        let segments = object.segments.iter().map(|segment| segment.range.clone()).collect();
        let LoadedObject { path, base, files, .. } = object;
        self.push(LoadedModule { path, info, base, range, segments, code, header, frames, is_cut, files });
        Some(())
    }

    fn push(&mut self, module: LoadedModule) {
        if !module.frames.bytes.is_empty() {
            let file = |address: u64| address.wrapping_sub(module.base);
            // The base of a malformed object may be any number.
            let end = |table: &Table| file(table.at).wrapping_add(table.bytes.len() as u64);
            let section = |table: &Table| Some(file(table.at)..end(table));
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
        let mut modules = Modules { is_foreign: self.is_foreign, ..Modules::new(self.version) };
        // The smaller modules suffice as its neighbours, and are cheap to copy.
        let small = self.list.iter().filter(|module| module.frames.bytes.len() < 1 << 20);
        small.cloned().for_each(|module| modules.push(module));
        let (path, code) = (PathBuf::from("library"), vec![range.clone()]);
        let info = Arc::new(Module { path: path.clone(), build_id: None });
        let files = ObjectFiles::own(false);
        let segments = code.clone();
        let base = range.start;
        modules.push(LoadedModule { path, info, base, range, segments, code, header, frames, is_cut: false, files });
        modules
    }

    /// Returns the smaller ones of these modules, as if they were those of another process.
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(super) fn as_foreign(&self) -> Modules {
        let mut modules = Modules::of_another_process();
        let small = self.list.iter().filter(|module| module.frames.bytes.len() < 1 << 20);
        small.cloned().for_each(|module| modules.push(module));
        modules
    }

    /// Returns the module that contains an address.
    pub(crate) fn find(&self, address: u64) -> Option<&LoadedModule> {
        self.list.iter().find(|module| module.range.contains(&address))
    }

    /// Returns whether there is code at an address.
    pub(crate) fn is_code(&self, address: u64) -> bool {
        self.find(address).is_some_and(|module| module.code.iter().any(|code| code.contains(&address)))
    }
}

/// Returns the path of a module's file; without the mark of a file that was deleted since.
fn file_path(path: &Path) -> PathBuf {
    if path != Path::new(EXECUTABLE) {
        return path.into();
    }
    let Ok(program) = std::fs::read_link(path) else { return path.into() };
    let deleted = program.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    deleted.filter(|_| !program.exists()).map_or_else(|| program.clone(), PathBuf::from)
}

/// Reads the build id of a module from memory, so that it is the one of the code that runs.
fn build_id(notes: &[Range<u64>], read: ReadCode<'_>) -> Option<BuildId> {
    notes.iter().find_map(|range| {
        let len = range.end.checked_sub(range.start).filter(|&len| len <= MAX_NOTES)?;
        let mut bytes = vec![0; len as usize];
        read(range.start, &mut bytes).then(|| build_id_of_notes(&bytes))?
    })
}

impl LoadedModule {
    /// Returns the addresses of the module's code.
    pub(crate) fn code(&self) -> &[Range<u64>] {
        &self.code
    }

    /// Returns whether this module is an object that was described again. Another library may have
    /// been loaded to the same address, from a file that was replaced: the build id is read again.
    fn is(&self, object: &LoadedObject, read: ReadCode<'_>) -> bool {
        self.base == object.base
            && self.path == object.path
            && self.files == object.files
            && self.segments.iter().eq(object.segments.iter().map(|segment| &segment.range))
            && self.info.build_id == build_id(&object.notes, read)
    }

    /// Returns whether this module is the library that unwinds panics (libgcc).
    pub(crate) fn is_unwinder(&self) -> bool {
        self.path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libgcc_s."))
    }

    /// Returns the function that contains an address, by the sorted table of `.eh_frame_hdr`. Code
    /// without unwind information (parts of `clone3`) belongs to no function.
    pub(crate) fn function(&self, address: u64) -> Option<Range<u64>> {
        let index = self.index(address)?;
        let start = self.start(index);
        let function = start..self.end(index, start)?;
        function.contains(&address).then_some(function)
    }

    /// Returns the entry of the unwind table for the function that contains an address.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn frame_entry(&self, address: u64) -> Option<FrameEntry<'_>> {
        let index = self.index(address)?;
        let entry = self.header.target(12 + index * 8 + 4, self.header.at)?;
        FrameEntry::parse(&self.frames, entry).filter(|entry| entry.function().contains(&address))
    }

    /// Returns the index of the last function in the sorted table that starts at an address or
    /// before it.
    fn index(&self, address: u64) -> Option<usize> {
        let header = &self.header;
        if header.bytes.get(..4)? != SORTED {
            return None;
        }
        let count = header.word(8)? as usize;
        let mut range = 0..count;
        while range.len() > 1 {
            let middle = range.start.midpoint(range.end);
            if self.start(middle) <= address { range.start = middle } else { range.end = middle }
        }
        (count > 0).then_some(range.start)
    }

    /// Returns the start of the function at `index` in the sorted table.
    fn start(&self, index: usize) -> u64 {
        self.header.target(12 + index * 8, self.header.at).unwrap_or(u64::MAX)
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
    use super::*;

    /// The lock may have been held by a thread that was slow, and not by one that a fork has left
    /// behind.
    #[test]
    fn modules_are_shared_again_once_the_lock_is_free() {
        let reading = hold_unwind_tables();
        IS_ABANDONED.store(true, Ordering::Relaxed);
        assert!(!Modules::current().list.is_empty(), "does not wait for the lock");
        drop(reading);
        let start = std::time::Instant::now();
        // Other tests hold the lock, too.
        while !Arc::ptr_eq(&Modules::current(), &Modules::current()) || IS_ABANDONED.load(Ordering::Relaxed) {
            assert!(start.elapsed() < Duration::from_secs(60), "each caller reads its own modules");
        }
    }

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

    /// A segment that ends elsewhere, or another build id in the same memory.
    #[test]
    fn an_object_at_the_same_address_may_be_another_one() {
        let note = |id: u8| [[4, 0, 0, 0], [4, 0, 0, 0], [3, 0, 0, 0], *b"GNU\0", [id; 4]].concat();
        let mut memory = note(1);
        let at = memory.as_ptr() as u64;
        let described = |len: u64| {
            let mut object = LoadedObject::new("library".into(), at, ObjectFiles::own(false));
            let header = ProgramHeader {
                kind: libc::PT_LOAD,
                flags: 0,
                offset: 0,
                address: 0,
                file_size: len,
                memory_size: len,
            };
            object.add(&header);
            object.add(&ProgramHeader { kind: libc::PT_NOTE, file_size: 20, memory_size: 20, ..header });
            vec![object]
        };
        let modules = Modules::of_objects(described(64), &Modules::of_another_process(), &memory::read);
        assert_eq!(modules.list[0].info.build_id, BuildId::new(&[1; 4]));
        assert!(modules.are(&described(64), &memory::read));
        assert!(!modules.are(&described(65), &memory::read));
        memory.copy_from_slice(&note(2));
        assert!(!modules.are(&described(64), &memory::read));
        let later = Modules::of_objects(described(64), &modules, &memory::read);
        assert_eq!(later.list[0].info.build_id, BuildId::new(&[2; 4]));
    }
}
