//! The dynamic loader's list of objects (`dl_iterate_phdr`).

use std::ffi::CStr;
use std::path::PathBuf;

use super::super::guard::catches_panic;
use super::super::symbolizer::EXECUTABLE;
use super::object::{LoadedObject, ObjectFiles, ProgramHeader};

/// The numbers of objects that were loaded and unloaded since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoadCount {
    loaded: u64,
    unloaded: u64,
}

/// Returns the numbers. They change whenever an object is loaded or unloaded.
pub(super) fn count() -> LoadCount {
    let mut count = LoadCount::default();
    iterate(&mut |info| {
        count = LoadCount { loaded: info.dlpi_adds, unloaded: info.dlpi_subs };
        false
    });
    count
}

/// Returns all objects that are loaded now.
pub(super) fn objects() -> Vec<LoadedObject> {
    let mut objects = Vec::new();
    iterate(&mut |info| {
        objects.push(describe(info));
        true
    });
    objects
}

fn describe(info: &libc::dl_phdr_info) -> LoadedObject {
    let mut path = PathBuf::new();
    if !info.dlpi_name.is_null() {
        // SAFETY: the loader's name is a C string, valid during the callback.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        path = PathBuf::from(name.to_string_lossy().into_owned());
    }
    let is_program = path.as_os_str().is_empty();
    if is_program {
        path = PathBuf::from(EXECUTABLE);
    }
    let mut object = LoadedObject::new(path, info.dlpi_addr, ObjectFiles::own(is_program));
    if info.dlpi_phdr.is_null() {
        return object;
    }
    // SAFETY: the loader gives `dlpi_phnum` program headers at `dlpi_phdr`, valid during the
    // callback.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
    for header in headers {
        object.add(&ProgramHeader {
            kind: header.p_type,
            flags: header.p_flags,
            offset: header.p_offset,
            address: header.p_vaddr,
            file_size: header.p_filesz,
            memory_size: header.p_memsz,
        });
    }
    object
}

/// Calls `f` with each object until it returns false. The loader's lock is held meanwhile, so it
/// must never be called while a thread is stopped.
fn iterate(mut f: &mut dyn FnMut(&libc::dl_phdr_info) -> bool) {
    unsafe extern "C" fn callback(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: `data` is the pointer given below, which nothing else uses meanwhile; `info` is
        // the loader's.
        let (f, info) = unsafe { (&mut *data.cast::<&mut dyn FnMut(&libc::dl_phdr_info) -> bool>(), &*info) };
        // A panic must not cross the loader's frames.
        let mut wants_more = false;
        catches_panic(|| wants_more = f(info));
        libc::c_int::from(!wants_more)
    }
    let data: *mut &mut dyn FnMut(&libc::dl_phdr_info) -> bool = &mut f;
    // SAFETY: `callback` has the type that is asked for, and `data` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(callback), data.cast()) };
}
