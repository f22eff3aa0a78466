//! Bytes of a file that are read when they are first needed.
//!
//! A file is not mapped into memory: whoever truncates a mapped file, as a build does that writes a
//! new debug file, ends the process with `SIGBUS`. Here it is a read error. What is read stays in
//! memory until the tables are released, and counts against a [`Budget`].

use std::io::{self, Read};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::file::{FileId, RegularFile};
use super::pages::Pages;

/// The size of the parts in which a file is read.
const CHUNK: usize = 16 << 10;

/// The reason why bytes could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The range lies outside of the file, or the file was truncated meanwhile.
    OutOfRange,
    Io,
    /// The [`Budget`] is spent.
    OverBudget,
}

/// The number of bytes that the files of one binary may take in memory.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
    is_exhausted: AtomicBool,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { limit, used: AtomicU64::new(0), is_exhausted: AtomicBool::new(false) }
    }

    /// Takes a number of bytes out of the budget.
    pub(super) fn take(&self, bytes: u64) -> Result<(), ReadError> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed);
        if used.saturating_add(bytes) <= self.limit {
            return Ok(());
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.is_exhausted.store(true, Ordering::Relaxed);
        Err(ReadError::OverBudget)
    }

    /// Returns whether bytes were ever refused.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted.load(Ordering::Relaxed)
    }

    /// Returns the limit in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the number of bytes taken.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A file, or a decompressed section.
#[derive(Debug)]
pub(crate) enum ByteSource {
    File(ChunkedFile),
    Memory(Pages),
    Empty,
}

/// A file whose chunks are read when they are first needed.
#[derive(Debug)]
pub(crate) struct ChunkedFile {
    file: RegularFile,
    len: usize,
    chunks: Box<[OnceLock<Pages>]>,
    budget: std::sync::Arc<Budget>,
}

impl ChunkedFile {
    pub(super) fn open(path: &Path, budget: std::sync::Arc<Budget>) -> io::Result<ChunkedFile> {
        let file = RegularFile::open(path)?;
        let len = usize::try_from(file.len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // The table of chunks takes 24 bytes for 16 KiB of the file. A sparse file may claim any
        // length.
        let count = len.div_ceil(CHUNK);
        budget.take((count * size_of::<OnceLock<Pages>>()) as u64).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).map_err(|_| io::ErrorKind::OutOfMemory)?;
        chunks.resize_with(count, OnceLock::new);
        Ok(ChunkedFile { file, len, chunks: chunks.into(), budget })
    }

    fn chunk(&self, index: usize) -> Result<&[u8], ReadError> {
        let chunk = self.chunks.get(index).ok_or(ReadError::OutOfRange)?;
        if let Some(bytes) = chunk.get() {
            return Ok(bytes);
        }
        let start = index * CHUNK;
        let len = CHUNK.min(self.len - start);
        self.budget.take(len as u64)?;
        let mut bytes = Pages::new(len).ok_or(ReadError::OverBudget)?;
        read_at(&self.file, start as u64, &mut bytes)?;
        Ok(chunk.get_or_init(|| bytes))
    }
}

impl ByteSource {
    /// Returns the identity of the file; `None` for what is no file.
    pub(super) fn file_id(&self) -> Option<FileId> {
        match self {
            ByteSource::File(file) => Some(file.file.id),
            ByteSource::Memory(_) | ByteSource::Empty => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            ByteSource::File(file) => file.len,
            ByteSource::Memory(bytes) => bytes.len(),
            ByteSource::Empty => 0,
        }
    }

    /// Returns the bytes from `start` on that are contiguous in memory: at least one.
    pub(super) fn contiguous(&self, start: usize) -> Result<&[u8], ReadError> {
        let (bytes, start) = match self {
            ByteSource::File(file) => (file.chunk(start / CHUNK)?, start % CHUNK),
            ByteSource::Memory(bytes) => (&bytes[..], start),
            ByteSource::Empty => return Err(ReadError::OutOfRange),
        };
        bytes.get(start..).filter(|rest| !rest.is_empty()).ok_or(ReadError::OutOfRange)
    }

    /// Copies the bytes from `start` on.
    pub(super) fn copy(&self, mut start: usize, mut to: &mut [u8]) -> Result<(), ReadError> {
        while !to.is_empty() {
            let bytes = self.contiguous(start)?;
            let len = bytes.len().min(to.len());
            let (part, rest) = to.split_at_mut(len);
            part.copy_from_slice(&bytes[..len]);
            (start, to) = (start + len, rest);
        }
        Ok(())
    }

    /// Opens a file that is no part of a binary.
    #[cfg(all(test, feature = "capture", not(pollwatch_loom)))]
    pub(crate) fn open(path: &Path) -> ByteSource {
        ByteSource::File(ChunkedFile::open(path, std::sync::Arc::new(Budget::new(1 << 20))).unwrap())
    }

    /// Copies bytes that will not be needed again: they are not kept.
    pub(crate) fn copy_once(&self, start: usize, to: &mut [u8]) -> Result<(), ReadError> {
        match self {
            ByteSource::File(file) => {
                let is_inside = start.checked_add(to.len()).is_some_and(|end| end <= file.len);
                if is_inside { read_at(&file.file, start as u64, to) } else { Err(ReadError::OutOfRange) }
            }
            ByteSource::Memory(_) | ByteSource::Empty => self.copy(start, to),
        }
    }
}

/// Fills a buffer from a position of a file.
fn read_at(file: &RegularFile, start: u64, to: &mut [u8]) -> Result<(), ReadError> {
    file.read_at(start, to).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::OutOfRange,
        _ => ReadError::Io,
    })
}

/// A range of a source as a stream. What it reads is not kept.
pub(super) struct Stream<'a> {
    source: &'a ByteSource,
    at: usize,
    end: usize,
}

impl<'a> Stream<'a> {
    pub(super) fn new(source: &'a ByteSource, range: std::ops::Range<usize>) -> Stream<'a> {
        Stream { source, at: range.start, end: range.end.min(source.len()) }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let len = to.len().min(self.end.saturating_sub(self.at));
        self.source.copy_once(self.at, &mut to[..len]).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.at += len;
        Ok(len)
    }
}
