//! Unwind tables in memory: `.eh_frame_hdr`, and the `.eh_frame` that it points to.

use std::ops::Range;
use std::sync::Arc;

use super::super::arch;
use super::super::unwind::ReadCode;
use super::object::Segment;
use super::pointer_authentication;

/// The largest table of this process that is copied. Unwinding ends at a module with a larger one.
pub(super) const MAX_TABLE: u64 = 256 << 20;

/// The most bytes of a table that are read at once: as many as can be read from another process
/// without a second buffer if they are in memory.
const PIECE: usize = 1 << 20;

/// The first bytes of the `.eh_frame_hdr` that all linkers write: version 1, a pointer of 4 bytes,
/// a count of 4 bytes, a sorted table of 4-byte offsets from the start of the header.
pub(super) const SORTED: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// A copied part of memory, and its address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) at: u64,
    pub(crate) bytes: Arc<[u8]>,
}

impl Table {
    fn copy(range: Range<u64>, limit: u64, read: ReadCode<'_>) -> Result<Table, TableError> {
        let len = range.end.checked_sub(range.start).ok_or(TableError::Unusual)?;
        if len > limit {
            return Err(TableError::TooLarge);
        }
        let mut table = Table { at: range.start, bytes: std::iter::repeat_n(0, len as usize).collect() };
        let bytes = Arc::get_mut(&mut table.bytes).ok_or(TableError::Unusual)?;
        let starts = (range.start..range.end).step_by(PIECE);
        let is_read = bytes.chunks_mut(PIECE).zip(starts).all(|(piece, at)| read(at, piece));
        is_read.then_some(table).ok_or(TableError::Unusual)
    }

    pub(super) fn word(&self, offset: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
    }

    /// Returns the address that the word at `offset` points to, relative to `from`.
    pub(super) fn target(&self, offset: usize, from: u64) -> Option<u64> {
        from.checked_add_signed(i64::from(self.word(offset)?.cast_signed()))
    }
}

/// The reason why an object has no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableError {
    /// They take more bytes than they may.
    TooLarge,
    /// There are none, or they cannot be read.
    Unusual,
}

/// The tables of one object.
#[derive(Clone, Debug, Default)]
pub(super) struct UnwindTables {
    /// The copy of `.eh_frame_hdr`.
    pub(super) header: Table,
    /// The copy of `.eh_frame`.
    pub(super) frames: Table,
}

/// Copies the header and the table that it points to, of `limit` bytes at most.
pub(super) fn copy_tables(
    header: Range<u64>,
    segments: &[Segment],
    limit: u64,
    read: ReadCode<'_>,
) -> Result<UnwindTables, TableError> {
    let header = Table::copy(header, limit, read)?;
    let range = range_of_frames(&header, segments, read).ok_or(TableError::Unusual)?;
    let mut frames = Table::copy(range, limit - header.bytes.len() as u64, read)?;
    if arch::SIGNS_RETURN_ADDRESSES {
        Arc::get_mut(&mut frames.bytes).map(pointer_authentication::ignore);
    }
    Ok(UnwindTables { header, frames })
}

/// Returns the addresses of `.eh_frame`.
fn range_of_frames(header: &Table, segments: &[Segment], read: ReadCode<'_>) -> Option<Range<u64>> {
    if header.bytes.get(..2)? != [1, 0x1b] {
        return None;
    }
    let at = header.target(4, header.at.checked_add(4)?)?;
    // The length is stored nowhere. The table ends with a terminator, or at the latest with its
    // segment.
    let segment = &segments.iter().find(|segment| segment.range.contains(&at))?.range;
    Some(at..end_of_frames(header, at, read).map_or(segment.end, |end| end.min(segment.end)))
}

/// Returns the end of the last entry of `.eh_frame` that the sorted table names, and of the
/// terminator after it; `None` for an unusual table.
///
/// The rest of the segment (all the code, with some linkers' flags) is not copied. Entries refer
/// only to what lies before them.
fn end_of_frames(header: &Table, at: u64, read: ReadCode<'_>) -> Option<u64> {
    if header.bytes.get(..4)? != SORTED {
        return None;
    }
    let mut entries = (0..header.word(8)? as usize).map(|i| header.target(12 + i * 8 + 4, header.at));
    let last = entries.try_fold(0, |last, entry| Some(entry?.max(last)))?;
    if last < at {
        return None;
    }
    let mut length = [0; 4];
    read(last, &mut length).then_some(())?;
    match u32::from_le_bytes(length) {
        // The terminator itself, or a length of 64 bits.
        0 | u32::MAX => None,
        length => last.checked_add(4 + u64::from(length) + 4),
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::super::memory;
    use super::*;

    #[test]
    fn long_tables_are_read_in_pieces() {
        let bytes = (0..2 * PIECE + 5).map(|at| (at % 251) as u8).collect::<Vec<_>>();
        let at = bytes.as_ptr() as u64;
        let longest = std::cell::Cell::new(0);
        let read = |from: u64, to: &mut [u8]| {
            longest.set(to.len().max(longest.get()));
            memory::read(from, to)
        };
        let table = Table::copy(at..at + bytes.len() as u64, MAX_TABLE, &read).unwrap();
        assert!(table.at == at && *table.bytes == *bytes);
        assert_eq!(longest.get(), PIECE);
    }

    /// A header, two entries of `.eh_frame` that are not sorted, a terminator, and other bytes.
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
            let segments = [Segment { range: at..at + object.len() as u64, is_code: true }];
            let copy = |limit| copy_tables(at..at + FRAMES as u64, &segments, limit, &memory::read);
            let UnwindTables { header, frames } = copy(MAX_TABLE).unwrap();
            let len = (header.bytes.len() + frames.bytes.len()) as u64;
            assert!(copy(len).is_ok());
            assert_eq!(copy(len - 1).unwrap_err(), TableError::TooLarge);
            assert_eq!((header.at, frames.at), (at, at + FRAMES as u64));
            FRAMES + frames.bytes.len()
        };
        assert_eq!(copied(&object), END);
        object[FRAMES + 20..FRAMES + 24].fill(0xff);
        assert_eq!(copied(&object), object.len(), "an unusual length: the whole segment");
        object[3] = 0;
        assert_eq!(copied(&object), object.len(), "no sorted table");
    }
}
