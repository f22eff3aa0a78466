//! The code that is loaded: where it is, and its unwind tables, copied (a library may be unloaded at any time).

use std::ffi::CStr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use framehop::{ExplicitModuleSectionInfo, Module as FramehopModule, Unwinder, UnwinderNative};

use super::memory;
use super::symbols::EXECUTABLE;
use crate::util::lock;

/// Tables larger than this are not copied; such a module's frames end a stack.
const MAX_TABLE: u64 = 256 << 20;

/// Version 1, a 4-byte count, a table of 4-byte offsets from the header's begin: how `.eh_frame_hdr` begins with all linkers.
const SORTED: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// One loaded object.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) path: PathBuf,
    /// What is added to an address in the file to get the one in memory.
    pub(crate) base: u64,
    pub(crate) range: Range<u64>,
    code: Vec<Range<u64>>,
    /// `.eh_frame_hdr` and `.eh_frame`.
    header: Table,
    frames: Table,
}

/// A copied part of memory, and where it was.
#[derive(Clone, Debug, Default)]
struct Table {
    at: u64,
    bytes: Arc<[u8]>,
}

impl Table {
    fn copy(range: Range<u64>) -> Option<Table> {
        let len = range.end.checked_sub(range.start).filter(|&len| len <= MAX_TABLE)?;
        let mut bytes = vec![0; len as usize];
        memory::read(range.start, &mut bytes).then(|| Table { at: range.start, bytes: bytes.into() })
    }

    fn word(&self, offset: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
    }

    /// What an offset that is stored in it points to.
    fn target(&self, offset: usize, from: u64) -> Option<u64> {
        from.checked_add_signed(i64::from(self.word(offset)?.cast_signed()))
    }
}

/// Those of the process that were read last. Held while they are read.
static LATEST: Mutex<Option<Arc<Modules>>> = Mutex::new(None);

/// Whether some have been, and nobody reads them just now.
pub(crate) fn are_read() -> bool {
    LATEST.try_lock().is_ok_and(|latest| latest.is_some())
}

/// All of them, and the unwinder made of their tables.
pub(crate) struct Modules {
    pub(crate) list: Vec<Module>,
    pub(super) unwinder: UnwinderNative<Arc<[u8]>, framehop::MayAllocateDuringUnwind>,
    version: (u64, u64),
}

/// What the loader tells of one object.
#[derive(Default)]
struct Found {
    path: PathBuf,
    base: u64,
    loads: Vec<(Range<u64>, bool)>,
    header: Option<Range<u64>>,
}

impl Modules {
    /// The modules of now, read again when something was loaded or unloaded since they were last. One for the process.
    pub(crate) fn of_now() -> Arc<Modules> {
        let mut latest = lock(&LATEST);
        let version = version();
        match &*latest {
            Some(modules) if modules.version == version => modules.clone(),
            _ => latest.insert(Arc::new(Modules::load(version))).clone(),
        }
    }

    fn load(version: (u64, u64)) -> Modules {
        let mut found: Vec<Found> = Vec::new();
        iterate(&mut |info| {
            found.push(describe(info));
            true
        });
        let mut modules = Modules { list: Vec::new(), unwinder: UnwinderNative::new(), version };
        for object in found {
            modules.add(object);
        }
        modules
    }

    fn add(&mut self, found: Found) -> Option<()> {
        let range = found.loads.iter().map(|l| l.0.start).min()?..found.loads.iter().map(|l| l.0.end).max()?;
        let code: Vec<_> = found.loads.iter().filter(|l| l.1).map(|l| l.0.clone()).collect();
        let (header, frames) = tables(&found.header, &found.loads).unwrap_or_default();
        self.push(Module { path: found.path, base: found.base, range, code, header, frames });
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

    /// These, and one more with these tables, all of it code.
    #[cfg(all(test, not(pollwatch_loom)))]
    pub(super) fn with_library(&self, range: Range<u64>, header: (u64, Vec<u8>), frames: (u64, Vec<u8>)) -> Modules {
        let table = |(at, bytes): (u64, Vec<u8>)| Table { at, bytes: bytes.into() };
        let mut modules = Modules { list: Vec::new(), unwinder: UnwinderNative::new(), version: self.version };
        // The smaller ones, so that there is something around it.
        let small = self.list.iter().filter(|module| module.frames.bytes.len() < 1 << 20);
        small.cloned().for_each(|module| modules.push(module));
        let (path, code) = (PathBuf::from("library"), vec![range.clone()]);
        modules.push(Module { path, base: range.start, range, code, header: table(header), frames: table(frames) });
        modules
    }

    /// The module that an address lies in.
    pub(crate) fn of(&self, address: u64) -> Option<&Module> {
        self.list.iter().find(|m| m.range.contains(&address))
    }

    /// Whether there is code at an address.
    pub(crate) fn is_code(&self, address: u64) -> bool {
        self.of(address).is_some_and(|m| m.code.iter().any(|c| c.contains(&address)))
    }
}

/// As if they were being read, until it is dropped.
#[cfg(all(test, not(pollwatch_loom)))]
pub(crate) fn pretend_to_read() -> impl Sized {
    lock(&LATEST)
}

impl Module {
    /// Whether panics unwind by it.
    pub(crate) fn is_unwinder(&self) -> bool {
        self.path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libgcc_s."))
    }

    /// The function around an address, as far as it can be unwound: from the sorted table of `.eh_frame_hdr`. Code without any, as
    /// little of it as there is (parts of `clone3`), is in none.
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

    /// The end of the function that is the `index`th in the table: its begin and length follow two words in `.eh_frame`.
    fn end(&self, index: usize, start: u64) -> Option<u64> {
        let entry = self.header.target(12 + index * 8 + 4, self.header.at)?;
        let at = usize::try_from(entry.checked_sub(self.frames.at)?).ok()?;
        // Were it stored in another way, its begin would be another one; then its end is not known.
        let is_as_usual = self.frames.target(at + 8, entry + 8) == Some(start);
        Some(if is_as_usual { start.saturating_add(u64::from(self.frames.word(at + 12)?)) } else { u64::MAX })
    }
}

/// The header and the table it points to.
fn tables(header: &Option<Range<u64>>, loads: &[(Range<u64>, bool)]) -> Option<(Table, Table)> {
    let header = Table::copy(header.clone()?)?;
    if header.bytes.get(..2)? != [1, 0x1b] {
        return None;
    }
    let at = header.target(4, header.at + 4)?;
    // Its length is not told: it ends with a terminator, at the latest where what was loaded with it ends.
    let load = loads.iter().find(|(range, _)| range.contains(&at))?;
    let end = end_of_frames(&header, at).map_or(load.0.end, |end| end.min(load.0.end));
    Some((header, Table::copy(at..end)?))
}

/// Where the last entry of `.eh_frame` that the sorted table names ends, and the terminator after it: what else was loaded with it
/// (all the code, with some linkers' flags) is not copied. Entries refer only to what lies before them. `None`: an odd table.
fn end_of_frames(header: &Table, at: u64) -> Option<u64> {
    if header.bytes.get(..4)? != SORTED {
        return None;
    }
    let mut entries = (0..header.word(8)? as usize).map(|i| header.target(12 + i * 8 + 4, header.at));
    let last = entries.try_fold(0, |last, entry| Some(entry?.max(last)))?;
    if last < at {
        return None;
    }
    let mut length = [0; 4];
    memory::read(last, &mut length).then_some(())?;
    match u32::from_le_bytes(length) {
        // None, or a length of 64 bits.
        0 | u32::MAX => None,
        length => last.checked_add(4 + u64::from(length) + 4),
    }
}

fn describe(info: &libc::dl_phdr_info) -> Found {
    let mut found = Found { base: info.dlpi_addr, ..Found::default() };
    if !info.dlpi_name.is_null() {
        // SAFETY: the loader's name is a C string, valid during the callback.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        found.path = PathBuf::from(name.to_string_lossy().into_owned());
    }
    if found.path.as_os_str().is_empty() {
        found.path = PathBuf::from(EXECUTABLE);
    }
    if info.dlpi_phdr.is_null() {
        return found;
    }
    // SAFETY: the loader gives `dlpi_phnum` program headers at `dlpi_phdr`, valid during the callback.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
    for header in headers {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr);
        let range = start..start.saturating_add(header.p_memsz);
        match header.p_type {
            libc::PT_LOAD => {
                // What lies past the file's part is zeroes, and may not be readable in one piece.
                let end = start.saturating_add(header.p_filesz);
                found.loads.push((start..end, header.p_flags & libc::PF_X != 0));
            }
            libc::PT_GNU_EH_FRAME => found.header = Some(range),
            _ => {}
        }
    }
    found
}

/// Changes when a library is loaded or unloaded.
fn version() -> (u64, u64) {
    let mut version = (0, 0);
    iterate(&mut |info| {
        version = (info.dlpi_adds, info.dlpi_subs);
        false
    });
    version
}

/// Calls `f` with each object until it returns false. Takes the loader's lock: never while a thread is being stopped.
fn iterate(mut f: &mut dyn FnMut(&libc::dl_phdr_info) -> bool) {
    unsafe extern "C" fn callback(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: `data` is the pointer given below, used by nobody else meanwhile; `info` is the loader's.
        let (f, info) = unsafe { (&mut *data.cast::<&mut dyn FnMut(&libc::dl_phdr_info) -> bool>(), &*info) };
        // A panic must not cross the loader's frames.
        let mut go_on = false;
        crate::util::call_user(|| go_on = f(info));
        libc::c_int::from(!go_on)
    }
    let data: *mut &mut dyn FnMut(&libc::dl_phdr_info) -> bool = &mut f;
    // SAFETY: `callback` has the type that is asked for, and `data` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(callback), data.cast()) };
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    /// A header, two entries of `.eh_frame` (not in their order), a terminator, and what else the linker put there.
    #[test]
    fn frames_are_copied_up_to_their_end() {
        const FRAMES: usize = 28;
        const END: usize = FRAMES + 20 + 16 + 4;
        let mut object = vec![0xaau8; 1 << 16];
        let mut put = |at: usize, word: u32| object[at..at + 4].copy_from_slice(&word.to_le_bytes());
        put(0, u32::from_le_bytes(SORTED));
        put(4, FRAMES as u32 - 4);
        put(8, 2);
        put(16, FRAMES as u32 + 20);
        put(24, FRAMES as u32);
        put(FRAMES, 16);
        put(FRAMES + 20, 12);
        put(FRAMES + 20 + 16, 0);
        let copied = |object: &[u8]| {
            let at = object.as_ptr() as u64;
            let loads = [(at..at + object.len() as u64, true)];
            let (header, frames) = tables(&Some(at..at + FRAMES as u64), &loads).unwrap();
            assert_eq!((header.at, frames.at), (at, at + FRAMES as u64));
            FRAMES + frames.bytes.len()
        };
        assert_eq!(copied(&object), END);
        object[FRAMES + 20..FRAMES + 24].fill(0xff);
        assert_eq!(copied(&object), object.len(), "an odd length: all that could be it");
        object[3] = 0;
        assert_eq!(copied(&object), object.len(), "no sorted table");
    }

    #[test]
    fn finds_itself() {
        let modules = Modules::of_now();
        let here = finds_itself as *const () as u64;
        let module = modules.of(here).expect("this code is loaded");
        assert!(modules.is_code(here));
        assert!(!modules.is_code(8));
        assert_eq!(module.path, PathBuf::from(EXECUTABLE));
        let function = module.function(here + 3).expect("it can be unwound");
        assert_eq!(function.start, here);
        assert!(module.function(function.end).is_none_or(|next| next.start == function.end));
        assert_eq!(module.function(0), None);
        assert_eq!(module.function(module.range.end - 1), None, "no code");
        let version = modules.version;
        assert!(Arc::ptr_eq(&Modules::of_now(), &modules), "nothing was loaded since: {version:?}");
    }
}
