//! The memory mappings of another process.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{AGE_FACTOR, MAX_AGE, MIN_AGE, NEEDED_FACTOR, elapsed};
use crate::capture::OtherMemory;
use crate::procfs::ProcessFolder;
use crate::{Address, Pid, StackBounds};

/// The most bytes of the file that are read: the kernel permits 65,530 mappings by default, each of
/// which takes some 100 bytes.
const MAX_BYTES: u64 = 32 << 20;

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mapping {
    pub(super) range: Range<u64>,
    pub(super) is_readable: bool,
    pub(super) is_executable: bool,
    /// The position in the file that is mapped.
    pub(super) offset: u64,
    pub(super) file: MappedFile,
}

/// A file that is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MappedFile {
    /// The device, as the kernel prints it, and the number of the file on it.
    pub(super) device: String,
    pub(super) inode: u64,
    pub(super) path: PathBuf,
}

/// The mappings of a process at one moment.
#[derive(Default)]
pub(super) struct Maps {
    /// Those of files of which a part is code, and of the kernel's own object, in the order of
    /// their addresses. A database may have mapped thousands of other files.
    pub(super) files: Vec<Mapping>,
    /// Those that may be stacks.
    writable: Vec<StackBounds>,
    files_hash: u64,
    /// The end of the latest attempt to read them, and its duration.
    tried_at: Option<Instant>,
    took: Duration,
}

impl Maps {
    /// Reads the mappings of a process. Where that fails, those of before stay.
    pub(super) fn read(&mut self, pid: Pid, memory: &OtherMemory) -> io::Result<()> {
        let start = Instant::now();
        let read = self.try_read(pid, memory);
        // A failed attempt counts as well, so that the next one does not follow at once.
        (self.tried_at, self.took) = (Some(Instant::now()), start.elapsed());
        read
    }

    fn try_read(&mut self, pid: Pid, memory: &OtherMemory) -> io::Result<()> {
        let text = memory.read_list(move || {
            let mut text = Vec::new();
            File::open(ProcessFolder::of(pid).path("maps"))?.take(MAX_BYTES).read_to_end(&mut text)?;
            Ok(text)
        })?;
        (self.files, self.writable) = (Vec::new(), Vec::new());
        for line in text.split(|&byte| byte == b'\n') {
            self.add(line);
        }
        self.keep_code();
        let mut hasher = DefaultHasher::new();
        self.files.hash(&mut hasher);
        self.files_hash = hasher.finish();
        Ok(())
    }

    /// Drops the mappings of files without code.
    fn keep_code(&mut self) {
        let code = self.files.iter().filter(|mapping| mapping.is_executable);
        let code: HashSet<_> = code.map(|mapping| mapping.file.clone()).collect();
        self.files.retain(|mapping| code.contains(&mapping.file));
    }

    fn add(&mut self, line: &[u8]) -> Option<()> {
        let mut parser = Fields { rest: line };
        let (range, flags) = (parser.text()?, parser.text()?);
        let (start, end) = range.split_once('-')?;
        let (start, end) = (hex(start)?, hex(end)?);
        if flags.starts_with("rw") {
            self.writable.extend(StackBounds::from_mapping(Address::new(start), Address::new(end)));
        }
        let (offset, device, inode) = (hex(parser.text()?)?, parser.text()?, parser.text()?.parse().ok()?);
        let path = parser.path();
        let is_object = path.first() == Some(&b'/') || path == b"[vdso]";
        if is_object && start < end {
            self.files.push(Mapping {
                range: start..end,
                is_readable: flags.starts_with('r'),
                is_executable: flags.as_bytes().get(2) == Some(&b'x'),
                offset,
                file: MappedFile {
                    device: device.into(),
                    inode,
                    path: PathBuf::from(OsString::from_vec(unescape(path))),
                },
            });
        }
        Some(())
    }

    /// Returns whether the process has no memory: it has ended, or never had any.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.writable.is_empty()
    }

    /// Returns a number that is another one when other files are mapped.
    pub(super) fn files_hash(&self) -> u64 {
        self.files_hash
    }

    /// Returns whether the mappings were not read for some time.
    pub(super) fn are_old(&self) -> bool {
        elapsed(self.tried_at) > (self.took * AGE_FACTOR).clamp(MIN_AGE, MAX_AGE)
    }

    /// Returns whether mappings that seem to lack something may be read again.
    pub(super) fn may_be_read(&self) -> bool {
        elapsed(self.tried_at) > (self.took * NEEDED_FACTOR).clamp(MIN_AGE, MAX_AGE)
    }

    /// Returns the part of memory that may be read as the stack of a thread with this stack
    /// pointer.
    pub(super) fn stack_at(&self, sp: Address) -> Option<StackBounds> {
        let next = self.writable.partition_point(|bounds| bounds.low() <= sp);
        let bounds = *self.writable.get(next.checked_sub(1)?)?;
        bounds.contains(sp).then_some(bounds)
    }
}

/// The fields of a line. The last one, the path, may contain spaces.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Returns the next field.
    fn text(&mut self) -> Option<&'a str> {
        let end = self.rest.iter().position(|&byte| byte == b' ')?;
        let (field, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        std::str::from_utf8(field).ok()
    }

    /// Returns the rest of the line without the spaces before it.
    fn path(&self) -> &'a [u8] {
        self.rest.trim_ascii_start()
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Returns a path as it is. The kernel writes a line feed in one as four characters.
fn unescape(path: &[u8]) -> Vec<u8> {
    const LINE_FEED: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, others)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(LINE_FEED) {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(first);
            rest = others;
        }
    }
    plain
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_failed_attempt_is_not_repeated_at_once() {
        let mut maps = Maps::default();
        assert!(maps.are_old() && maps.may_be_read());
        let nobody = Pid::from_raw(i32::MAX);
        assert!(maps.read(nobody, &OtherMemory::of(nobody)).is_err());
        // As if the attempt had taken long.
        maps.took = MAX_AGE;
        assert!(!maps.are_old() && !maps.may_be_read());
    }

    #[test]
    fn lines_of_any_form() {
        let mut maps = Maps::default();
        let text = b"1000-2000 r-xp 00003000 08:01 77                 /srv/a b\xff\\012c (deleted)\n\
            2000-3000 rw-p 00000000 00:00 0 \n\
            3000-4000 rw-p 00000000 00:00 0                          [stack]\n\
            4000-5000 r-xp 00000000 00:00 0                          [vdso]\n\
            5000-5000 r-xp 00000000 08:01 7 /empty\n\
            6000-7000 r--p 00000000 08:01 8 /data\n\
            zzz\n\n";
        text.split(|&byte| byte == b'\n').for_each(|line| _ = maps.add(line));
        assert_eq!(maps.files.len(), 3);
        maps.keep_code();
        let paths: Vec<_> = maps.files.iter().map(|file| file.file.path.clone().into_os_string().into_vec()).collect();
        assert_eq!(paths, [&b"/srv/a b\xff\nc (deleted)"[..], b"[vdso]"]);
        let file = &maps.files[0];
        assert_eq!((file.range.clone(), file.offset, file.file.inode), (0x1000..0x2000, 0x3000, 77));
        assert!(file.is_readable && file.is_executable);
        assert_eq!(maps.stack_at(Address::new(0x2fff)).map(|stack| stack.high()), Some(Address::new(0x3000)));
        assert_eq!(maps.stack_at(Address::new(0x1fff)), None);
        assert_eq!(maps.stack_at(Address::new(0x4000)), None);
    }
}
