//! The objects that are mapped in another process, by their headers in its memory.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::maps::{MappedFile, Mapping};
use crate::capture::little_endian::{u16_at, u32_at, u64_at};
use crate::capture::{LoadedObject, ObjectFiles, ObjectOwner, OtherOwner, ProgramHeader, ReadCode};
use crate::procfs::ProcessFolder;
use crate::symbols::foreign;

/// The most objects that are read. A process with more has stacks that end in one of the others.
const MAX_OBJECTS: usize = 1_024;
/// The most mappings that are searched for an object. Most processes have one for each object.
const MAX_STARTS: usize = 16_384;
/// The most program headers of an object. Linkers write about ten.
const MAX_HEADERS: usize = 128;
/// The first bytes of a 64-bit little-endian ELF file.
const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// The size of pages that segments are aligned to at least.
const PAGE: u64 = 4096;
/// The name of the kernel's own object in `maps`, and the one by which the loader knows it.
const VDSO: [&str; 2] = ["[vdso]", "linux-vdso.so.1"];

/// The process whose objects are read.
pub(super) struct Place {
    /// The folder of a thread that has memory.
    pub(super) anchor: ProcessFolder,
    pub(super) number: u64,
    /// An address in the executable.
    pub(super) entry: Option<u64>,
}

/// The objects of a process.
pub(super) struct FoundObjects {
    pub(super) list: Vec<LoadedObject>,
    /// The number of mappings that were not searched for an object.
    pub(super) left_out: usize,
}

/// Returns the objects of a process. Each starts with a mapping of the start of its file.
pub(super) fn of(mappings: &[Mapping], place: &Place, read: ReadCode<'_>) -> FoundObjects {
    let code = CodeMappings::of(mappings);
    let mut starts = mappings.iter().filter(|mapping| mapping.offset == 0 && mapping.is_readable);
    let mut found: Vec<Found> = Vec::new();
    // By the start of their addresses. No two objects have addresses in common, as long as a linker
    // has written their headers.
    let mut ranges: BTreeMap<u64, u64> = BTreeMap::new();
    for start in starts.by_ref().take(MAX_STARTS) {
        let Some(object) = object(start, &code, place, read) else { continue };
        let Some(range) = object.object.range() else { continue };
        let before = ranges.range(..range.end).next_back();
        if before.is_none_or(|(_, &end)| end <= range.start) {
            ranges.insert(range.start, range.end);
            found.push(object);
        }
        if found.len() >= MAX_OBJECTS {
            break;
        }
    }
    let left_out = starts.count();
    // A program that was started through the dynamic loader (`ld.so program`): what the kernel
    // takes for the program is the loader, which has none itself. A library may have one, too.
    if found.iter().any(|found| found.object.files.is_program && !found.has_loader)
        && let Some(program) = found.iter().position(|found| found.has_loader && !is_library(&found.object.path))
    {
        for (index, found) in found.iter_mut().enumerate() {
            found.object.files.is_program = index == program;
        }
    }
    FoundObjects { list: found.into_iter().map(|found| found.object).collect(), left_out }
}

/// The addresses at which mappings of code start, by file, in their order.
struct CodeMappings<'a>(HashMap<&'a MappedFile, Vec<u64>>);

impl CodeMappings<'_> {
    fn of(mappings: &[Mapping]) -> CodeMappings<'_> {
        let mut starts: HashMap<_, Vec<u64>> = HashMap::new();
        for mapping in mappings.iter().filter(|mapping| mapping.is_executable) {
            starts.entry(&mapping.file).or_default().push(mapping.range.start);
        }
        starts.values_mut().for_each(|starts| starts.sort_unstable());
        CodeMappings(starts)
    }

    /// Returns whether code of a file is mapped within some addresses.
    fn is_in(&self, file: &MappedFile, addresses: &Range<u64>) -> bool {
        let Some(starts) = self.0.get(file) else { return false };
        let next = starts.partition_point(|&start| start < addresses.start);
        starts.get(next).is_some_and(|start| addresses.contains(start))
    }
}

/// An object of a process.
struct Found {
    object: LoadedObject,
    /// True if the object names a dynamic loader.
    has_loader: bool,
}

/// Returns whether a path is that of a library: `libc.so.6`.
fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.windows(4).any(|part| part == b".so.") || name.ends_with(b".so")
}

fn object(start: &Mapping, code: &CodeMappings<'_>, place: &Place, read: ReadCode<'_>) -> Option<Found> {
    let headers = program_headers(start.range.start, read)?;
    let loads = || headers.iter().filter(|header| header.kind == libc::PT_LOAD);
    let first = loads().find(|header| header.offset < PAGE && header.address % PAGE == header.offset % PAGE)?;
    let base = start.range.start.wrapping_add(first.offset).wrapping_sub(first.address);
    let has_loader = headers.iter().any(|header| header.kind == libc::PT_INTERP);
    let end = loads().map(|header| base.wrapping_add(header.address).wrapping_add(header.memory_size)).max()?;
    // A copy of a file's start in memory has no code at its addresses.
    let addresses = start.range.start..end;
    if !code.is_in(&start.file, &addresses) {
        return None;
    }
    let is_program = place.entry.is_some_and(|entry| addresses.contains(&entry));
    let (path, files) = files(start, place, is_program);
    let mut object = LoadedObject::new(path, base, files);
    headers.iter().for_each(|header| object.add(header));
    Some(Found { object, has_loader })
}

/// Reads the program headers of the object at an address.
fn program_headers(start: u64, read: ReadCode<'_>) -> Option<Vec<ProgramHeader>> {
    let mut header = [0; HEADER];
    if !read(start, &mut header) || !header.starts_with(MAGIC) {
        return None;
    }
    let (at, size, count) = (u64_at(&header, 0x20)?, u16_at(&header, 0x36)?, u16_at(&header, 0x38)?);
    let count = usize::from(count);
    if usize::from(size) != PROGRAM_HEADER || count > MAX_HEADERS {
        return None;
    }
    let mut bytes = vec![0; count * PROGRAM_HEADER];
    if !read(start.checked_add(at)?, &mut bytes) {
        return None;
    }
    let parse = |bytes: &[u8]| {
        Some(ProgramHeader {
            kind: u32_at(bytes, 0)?,
            flags: u32_at(bytes, 4)?,
            offset: u64_at(bytes, 8)?,
            address: u64_at(bytes, 16)?,
            file_size: u64_at(bytes, 32)?,
            memory_size: u64_at(bytes, 40)?,
        })
    };
    bytes.chunks_exact(PROGRAM_HEADER).map(parse).collect()
}

/// Returns the path of an object, and where its file is opened.
fn files(start: &Mapping, place: &Place, is_program: bool) -> (PathBuf, ObjectFiles) {
    let root = place.anchor.path("root");
    let mut links = Vec::new();
    let path = if start.file.path == Path::new(VDSO[0]) {
        PathBuf::from(VDSO[1])
    } else {
        // The mapped file itself, whatever has its path by now. Only privileged users may open it.
        let range = format!("map_files/{:x}-{:x}", start.range.start, start.range.end);
        links.push(place.anchor.path(range));
        if is_program {
            links.push(place.anchor.path("exe"));
        }
        without_mark(&start.file.path, &root)
    };
    let (inode, device) = (start.file.inode, start.file.device.clone());
    let owner = ObjectOwner::Other(OtherOwner { number: place.number, root, links, inode, device });
    (path, ObjectFiles { is_program, owner })
}

/// Returns a path without the mark of a file that was deleted since.
fn without_mark(path: &Path, root: &Path) -> PathBuf {
    let plain =
        path.as_os_str().as_bytes().strip_suffix(b" (deleted)").map(|plain| Path::new(OsStr::from_bytes(plain)));
    // The name of a file may end in the same way.
    let is_name = || foreign::exists(&root.join(path.strip_prefix("/").unwrap_or(path)));
    plain.filter(|_| !is_name()).unwrap_or(path).into()
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use crate::Pid;
    use crate::capture::Modules;
    use crate::random::rounds;

    const BASE: u64 = 0x7f00_0000_0000;

    fn mapping(range: Range<u64>, offset: u64, is_executable: bool, path: &str) -> Mapping {
        let file = MappedFile { device: "08:01".to_owned(), inode: 7, path: path.into() };
        Mapping { range, is_readable: true, is_executable, offset, file }
    }

    fn place(entry: u64) -> Place {
        Place { anchor: ProcessFolder::of(Pid::current()), number: 1, entry: Some(entry) }
    }

    /// The start of an object of two segments, which is linked to be loaded at `linked`.
    fn image(linked: u64) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[..6].copy_from_slice(MAGIC);
        image[0x20..0x28].copy_from_slice(&64u64.to_le_bytes());
        image[0x36..0x38].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
        image[0x38..0x3a].copy_from_slice(&2u16.to_le_bytes());
        for (index, flags) in [(0, libc::PF_R), (1, libc::PF_R | libc::PF_X)] {
            let at = 64 + index as usize * PROGRAM_HEADER;
            image[at..at + 4].copy_from_slice(&libc::PT_LOAD.to_le_bytes());
            image[at + 4..at + 8].copy_from_slice(&flags.to_le_bytes());
            let words = [index * 0x1000, linked + index * 0x1000, 0, 0x1000, 0x1000, 0x1000];
            for (word, bytes) in words.iter().zip(image[at + 8..].chunks_exact_mut(8)) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        image
    }

    fn reader(image: &[u8]) -> impl Fn(u64, &mut [u8]) -> bool {
        |from, to| {
            let start = from.checked_sub(BASE).and_then(|start| usize::try_from(start).ok());
            let part = start.and_then(|start| image.get(start..start.checked_add(to.len())?));
            part.map(|part| to.copy_from_slice(part)).is_some()
        }
    }

    #[test]
    fn objects_at_any_address() {
        let mappings = |path| {
            let second = BASE + 0x1000;
            [mapping(BASE..second, 0, false, path), mapping(second..second + 0x1000, 0x1000, true, path)]
        };
        for (linked, base) in [(0, BASE), (BASE, 0), (0x40_0000, BASE - 0x40_0000)] {
            let image = image(linked);
            let [object] = &of(&mappings("/srv/app"), &place(BASE + 0x1000), &reader(&image)).list[..] else {
                panic!()
            };
            assert_eq!((object.base, object.files.is_program), (base, true));
            assert_eq!(object.segments[1].range, BASE + 0x1000..BASE + 0x2000);
            assert!(object.segments[1].is_code && !object.segments[0].is_code);
            let library = &of(&mappings("/srv/lib.so (deleted)"), &place(8), &reader(&image)).list[0];
            assert!(!library.files.is_program && library.path == Path::new("/srv/lib.so"));
        }
        let data = [mapping(BASE..BASE + 0x1000, 0, false, "/srv/app")];
        assert!(of(&data, &place(BASE), &reader(&image(0))).list.is_empty(), "a file that is mapped as data");
    }

    /// A process may map its own file 60,000 times, as code and as data.
    #[test]
    fn any_number_of_mappings_is_searched_in_bounded_time() {
        const COUNT: u64 = 60_000;
        let image = image(0);
        let read = |from: u64, to: &mut [u8]| reader(&image)(BASE + from % 0x1000, to);
        for is_code in [true, false] {
            let all = (0..COUNT).map(|index| BASE + index * 0x1000);
            let mut mappings: Vec<_> = all.map(|at| mapping(at..at + 0x1000, 0, is_code, "/srv/app")).collect();
            mappings.push(mapping(8..16, 0x1000, true, "/srv/app"));
            let start = std::time::Instant::now();
            let found = of(&mappings, &place(BASE), &read);
            assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
            assert_eq!(found.list.len(), if is_code { MAX_OBJECTS } else { 0 });
            assert!(found.left_out > 0 && found.left_out < COUNT as usize);
            for (one, next) in found.list.iter().zip(found.list.iter().skip(1)) {
                assert!(one.range().unwrap().end <= next.range().unwrap().start, "no address is in two objects");
            }
        }
    }

    #[test]
    fn malformed_headers_end_nothing() {
        rounds("headers in memory", |random| {
            let mut image = image(0);
            // Some headers name unwind tables and notes.
            for index in 0..2 {
                let kinds = [libc::PT_LOAD, libc::PT_GNU_EH_FRAME, libc::PT_NOTE];
                let at = 64 + index * PROGRAM_HEADER;
                image[at..at + 4].copy_from_slice(&random.pick(&kinds).to_le_bytes());
            }
            for _ in 0..random.below(8) + 1 {
                let at = random.below(64 + 2 * PROGRAM_HEADER);
                image[at] = if random.once_in(2) { 0xff } else { random.next() as u8 };
            }
            let mappings = [mapping(BASE..BASE + 0x1000, 0, true, "/a"), mapping(8..u64::MAX, 0, true, "/b")];
            let read = reader(&image);
            let objects = of(&mappings, &place(BASE), &read);
            let modules = Modules::of_objects(objects.list, &Modules::of_another_process(), &read);
            let _ = (modules.find(BASE), modules.is_code(u64::MAX));
        });
    }
}
