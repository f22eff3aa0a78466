//! A loaded object: what its program headers say, and where its file is.

use std::ops::Range;
use std::path::PathBuf;

/// The most parts with notes that are searched for the build id. Linkers write up to four.
const MAX_NOTES: usize = 8;

/// One object, as its program headers describe it.
pub(crate) struct LoadedObject {
    pub(crate) path: PathBuf,
    /// The difference between an address in memory and the one in the file.
    pub(crate) base: u64,
    pub(crate) segments: Vec<Segment>,
    /// The addresses of `.eh_frame_hdr`.
    pub(super) header: Option<Range<u64>>,
    /// The addresses of the notes, one of which is the build id.
    pub(super) notes: Vec<Range<u64>>,
    pub(crate) files: ObjectFiles,
}

/// A part of an object that is mapped from its file.
pub(crate) struct Segment {
    pub(crate) range: Range<u64>,
    pub(crate) is_code: bool,
}

/// A program header: a segment, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramHeader {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
}

/// The place of an object's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectFiles {
    /// True for the executable.
    pub(crate) is_program: bool,
    /// The process that has loaded the object.
    pub(crate) owner: ObjectOwner,
}

/// The process that has loaded an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ObjectOwner {
    /// This process.
    Own,
    /// Another one.
    Other(OtherOwner),
}

/// The place of a file of another process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OtherOwner {
    /// The number of this process and program among all that were opened. What is remembered of one
    /// is not used for another.
    pub(crate) number: u64,
    /// The root folder of the process, in the mounts that it sees.
    pub(crate) root: PathBuf,
    /// The links through which the kernel opens the file itself, wherever its path leads by now.
    pub(crate) links: Vec<PathBuf>,
    /// The number of the file in its file system, and the device of that, as the mappings name it.
    pub(crate) inode: u64,
    pub(crate) device: String,
}

impl ObjectOwner {
    /// Returns a number that no other process has. That of this process is 0.
    pub(crate) fn number(&self) -> u64 {
        match self {
            ObjectOwner::Own => 0,
            ObjectOwner::Other(other) => other.number,
        }
    }
}

impl ObjectFiles {
    /// Returns the place of an object's file in this process.
    pub(crate) fn own(is_program: bool) -> ObjectFiles {
        ObjectFiles { is_program, owner: ObjectOwner::Own }
    }
}

impl LoadedObject {
    /// Makes an object without segments.
    pub(crate) fn new(path: PathBuf, base: u64, files: ObjectFiles) -> LoadedObject {
        LoadedObject { path, base, segments: Vec::new(), header: None, notes: Vec::new(), files }
    }

    /// Returns the addresses from the first to the last segment; `None` without segments.
    pub(crate) fn range(&self) -> Option<Range<u64>> {
        let start = self.segments.iter().map(|segment| segment.range.start).min()?;
        let end = self.segments.iter().map(|segment| segment.range.end).max()?;
        Some(start..end)
    }

    /// Adds what a program header describes.
    pub(crate) fn add(&mut self, header: &ProgramHeader) {
        let start = self.base.wrapping_add(header.address);
        let in_memory = start..start.saturating_add(header.memory_size);
        match header.kind {
            libc::PT_LOAD => {
                // Behind the file's part there are zeroes, which may not be readable in one piece.
                let range = start..start.saturating_add(header.file_size);
                self.segments.push(Segment { range, is_code: header.flags & libc::PF_X != 0 });
            }
            libc::PT_NOTE if self.notes.len() < MAX_NOTES => self.notes.push(in_memory),
            libc::PT_GNU_EH_FRAME => self.header = Some(in_memory),
            _ => {}
        }
    }
}
