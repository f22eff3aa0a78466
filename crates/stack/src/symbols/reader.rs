//! The reader through which DWARF is parsed: a part of a [`ByteSource`].

use std::borrow::Cow;
use std::sync::Arc;

use addr2line::gimli::{self, Error, LittleEndian, Reader, ReaderOffsetId};

use super::source::{ByteSource, ReadError};

/// A part of a source. It keeps the source alive, so no lifetime ties the tables to their file.
#[derive(Clone, Debug)]
pub(super) struct SourceReader {
    source: Arc<ByteSource>,
    start: usize,
    len: usize,
}

impl SourceReader {
    /// Makes a reader of a range, which is cut at the end of the source.
    pub(super) fn new(source: Arc<ByteSource>, range: std::ops::Range<usize>) -> SourceReader {
        let start = range.start.min(source.len());
        let len = range.end.min(source.len()).saturating_sub(start);
        SourceReader { source, start, len }
    }

    /// Makes a reader without any byte.
    pub(super) fn none() -> SourceReader {
        SourceReader { source: Arc::new(ByteSource::Empty), start: 0, len: 0 }
    }

    fn end_of_input(&self) -> Error {
        Error::UnexpectedEof(self.offset_id())
    }

    fn error(&self, error: ReadError) -> Error {
        match error {
            ReadError::OutOfRange => self.end_of_input(),
            ReadError::Io | ReadError::OverBudget => Error::Io,
        }
    }
}

impl Reader for SourceReader {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        self.len
    }

    fn empty(&mut self) {
        self.len = 0;
    }

    fn truncate(&mut self, len: usize) -> gimli::Result<()> {
        if len > self.len {
            return Err(self.end_of_input());
        }
        self.len = len;
        Ok(())
    }

    fn offset_from(&self, base: &SourceReader) -> usize {
        self.start.saturating_sub(base.start)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.start as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let offset = usize::try_from(id.0).ok()?.checked_sub(self.start)?;
        (offset <= self.len).then_some(offset)
    }

    fn find(&self, byte: u8) -> gimli::Result<usize> {
        let mut passed = 0;
        while passed < self.len {
            let bytes = self.source.contiguous(self.start + passed).map_err(|error| self.error(error))?;
            let bytes = &bytes[..bytes.len().min(self.len - passed)];
            if let Some(at) = bytes.iter().position(|&b| b == byte) {
                return Ok(passed + at);
            }
            passed += bytes.len();
        }
        Err(self.end_of_input())
    }

    fn skip(&mut self, len: usize) -> gimli::Result<()> {
        if len > self.len {
            return Err(self.end_of_input());
        }
        (self.start, self.len) = (self.start + len, self.len - len);
        Ok(())
    }

    fn split(&mut self, len: usize) -> gimli::Result<SourceReader> {
        let mut first = self.clone();
        first.truncate(len)?;
        self.skip(len)?;
        Ok(first)
    }

    fn to_slice(&self) -> gimli::Result<Cow<'_, [u8]>> {
        if self.len == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let bytes = self.source.contiguous(self.start).map_err(|error| self.error(error))?;
        if let Some(bytes) = bytes.get(..self.len) {
            return Ok(Cow::Borrowed(bytes));
        }
        let mut bytes = vec![0; self.len];
        self.source.copy(self.start, &mut bytes).map_err(|error| self.error(error))?;
        Ok(Cow::Owned(bytes))
    }

    fn to_string(&self) -> gimli::Result<Cow<'_, str>> {
        match self.to_slice()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Error::BadUtf8),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Error::BadUtf8),
        }
    }

    fn to_string_lossy(&self) -> gimli::Result<Cow<'_, str>> {
        Ok(match self.to_slice()? {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    fn read_slice(&mut self, to: &mut [u8]) -> gimli::Result<()> {
        if to.len() > self.len {
            return Err(self.end_of_input());
        }
        self.source.copy(self.start, to).map_err(|error| self.error(error))?;
        self.skip(to.len())
    }
}
