//! ELF files: sections, build id, and links to separate debug files.
//!
//! Only what symbols need is read, of 64-bit little-endian files. Every number of a file is checked
//! against the file's length before it is used.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checksums::ChecksumBudget;
use super::error::SymbolFileError;
use super::file::FileId;
use super::inflate::ZlibDecoder;
use super::pages::Pages;
use super::reader::SourceReader;
use super::source::{Budget, ByteSource, ChunkedFile, ReadError, Stream};
use super::tables::SymbolRequest;
use crate::BuildId;
use crate::module::build_id_of_notes;

/// The first bytes of an ELF file: 64-bit, little-endian, version 1.
const MAGIC: [u8; 7] = [0x7f, b'E', b'L', b'F', 2, 1, 1];
const HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// The most bytes of a section's name that are compared.
const MAX_NAME: usize = 32;
/// The most sections. A linked file has some 50, an object file of a compiler up to one for each
/// function.
const MAX_SECTIONS: usize = 1 << 17;
/// The largest file whose checksum is computed.
const MAX_CHECKED: usize = 1 << 30;
/// The most bytes of a section of notes, or of a link to a debug file, that are read.
const MAX_SMALL: usize = 64 << 10;

const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const SHF_EXECINSTR: u64 = 4;
const SHF_COMPRESSED: u64 = 0x800;
const PT_NOTE: u32 = 4;
const COMPRESSED_BY_ZLIB: u32 = 1;
const COMPRESSED_BY_ZSTD: u32 = 2;

/// A section of a file.
#[derive(Clone, Debug)]
struct Section {
    /// The start of the name.
    name: Vec<u8>,
    kind: u32,
    flags: u64,
    range: Range<usize>,
    /// The index of the section that this one refers to.
    link: usize,
}

/// A table of symbols: its entries, and their names.
pub(super) struct SymbolSections {
    pub(super) source: Arc<ByteSource>,
    pub(super) entries: Range<usize>,
    pub(super) names: SourceReader,
    /// By section: true if it is code.
    pub(super) is_code: Vec<bool>,
}

/// The places of the two parts of a file's table of all symbols.
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) struct SymbolRanges {
    pub(crate) source: Arc<ByteSource>,
    pub(crate) entries: Range<usize>,
    pub(crate) names: Range<usize>,
}

/// The file that a `.gnu_debuglink` names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DebugLink {
    pub(super) file_name: PathBuf,
    pub(super) crc: u32,
}

/// The supplementary file that a `.gnu_debugaltlink` names: `dwz` moves into it what several debug
/// files have in common.
pub(super) struct AltLink {
    pub(super) path: PathBuf,
    pub(super) build_id: BuildId,
}

/// An ELF file.
pub(super) struct ElfFile {
    pub(super) path: PathBuf,
    source: Arc<ByteSource>,
    budget: Arc<Budget>,
    sections: Vec<Section>,
    pub(super) build_id: Option<BuildId>,
}

impl ElfFile {
    pub(super) fn open(path: &Path, budget: &Arc<Budget>) -> Result<ElfFile, SymbolFileError> {
        let file = ChunkedFile::open(path, budget.clone()).map_err(|source| SymbolFileError::io(path, source))?;
        let mut file = ElfFile {
            path: path.into(),
            source: Arc::new(ByteSource::File(file)),
            budget: budget.clone(),
            sections: Vec::new(),
            build_id: None,
        };
        let mut header = [0; HEADER];
        let is_read = file.source.copy(0, &mut header).is_ok();
        if !is_read || header[..MAGIC.len()] != MAGIC {
            return Err(SymbolFileError::NotElf { path: path.into() });
        }
        file.sections = file.read_sections(&header).map_err(|error| file.error(error, "table of sections"))?;
        file.build_id = file.build_id_section().or_else(|| file.build_id_segment(&header));
        Ok(file)
    }

    /// Opens the binary of a request, and checks that it has the build id that it must have.
    pub(super) fn open_expected(request: &SymbolRequest<'_>, budget: &Arc<Budget>) -> Result<ElfFile, SymbolFileError> {
        let binary = ElfFile::open(request.file, budget)?;
        match request.expected {
            Some(expected) if binary.build_id.as_ref() != Some(expected) => Err(SymbolFileError::OtherBuild {
                path: request.path.into(),
                expected: expected.clone(),
                found: binary.build_id,
            }),
            _ => Ok(binary),
        }
    }

    fn error(&self, error: ReadError, part: &'static str) -> SymbolFileError {
        match error {
            ReadError::OutOfRange => SymbolFileError::malformed(&self.path, part),
            ReadError::Io => SymbolFileError::io(&self.path, std::io::ErrorKind::Other.into()),
            ReadError::OverBudget => SymbolFileError::TooLarge { path: self.path.clone(), limit: self.budget.limit() },
        }
    }

    fn read_sections(&self, header: &[u8; HEADER]) -> Result<Vec<Section>, ReadError> {
        let start = to_usize(u64_at(header, 0x28));
        if start == 0 {
            return Ok(Vec::new());
        }
        let (mut count, mut names) = (usize::from(u16_at(header, 0x3c)), usize::from(u16_at(header, 0x3e)));
        let section_header = |index: usize| {
            let mut bytes = [0; SECTION_HEADER];
            let at = index.checked_mul(SECTION_HEADER).and_then(|offset| start.checked_add(offset));
            self.source.copy(at.ok_or(ReadError::OutOfRange)?, &mut bytes).map(|()| bytes)
        };
        // More sections than fit into 16 bits: the first entry has the numbers.
        let first = section_header(0)?;
        if count == 0 {
            count = to_usize(u64_at(&first, 0x20));
        }
        if names == 0xffff {
            names = u32_at(&first, 0x28) as usize;
        }
        if count
            .checked_mul(SECTION_HEADER)
            .and_then(|len| start.checked_add(len))
            .is_none_or(|e| e > self.source.len())
        {
            return Err(ReadError::OutOfRange);
        }
        if count > MAX_SECTIONS {
            return Err(ReadError::OverBudget);
        }
        let names = to_usize(u64_at(&section_header(names.min(count.saturating_sub(1)))?, 0x18));
        (0..count)
            .map(|index| {
                let header = section_header(index)?;
                let at = to_usize(u64_at(&header, 0x18));
                Ok(Section {
                    name: self.name(names.saturating_add(u32_at(&header, 0) as usize)),
                    kind: u32_at(&header, 4),
                    flags: u64_at(&header, 8),
                    range: at..at.saturating_add(to_usize(u64_at(&header, 0x20))),
                    link: u32_at(&header, 0x28) as usize,
                })
            })
            .collect()
    }

    /// Returns the start of a section's name; nothing where it cannot be read.
    fn name(&self, at: usize) -> Vec<u8> {
        let mut name = [0; MAX_NAME];
        let len = MAX_NAME.min(self.source.len().saturating_sub(at));
        if self.source.copy(at, &mut name[..len]).is_err() {
            return Vec::new();
        }
        name.split(|&byte| byte == 0).next().unwrap_or_default().into()
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name.as_bytes() && section.kind != SHT_NOBITS)
    }

    /// Returns whether the file has a section, and its content.
    pub(super) fn has(&self, name: &str) -> bool {
        self.section(name).is_some_and(|section| !section.range.is_empty())
    }

    /// Returns the content of a small section.
    fn small(&self, name: &str) -> Option<Vec<u8>> {
        self.bytes(self.section(name)?.range.clone())
    }

    fn bytes(&self, range: Range<usize>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; range.len().min(MAX_SMALL)];
        self.source.copy(range.start, &mut bytes).is_ok().then_some(bytes)
    }

    fn build_id_section(&self) -> Option<BuildId> {
        build_id_of_notes(&self.small(".note.gnu.build-id")?)
    }

    /// Finds the build id of a file whose section headers were removed.
    fn build_id_segment(&self, header: &[u8; HEADER]) -> Option<BuildId> {
        let start = to_usize(u64_at(header, 0x20));
        (0..usize::from(u16_at(header, 0x38))).find_map(|index| {
            let mut segment = [0; PROGRAM_HEADER];
            self.source.copy(start.checked_add(index * PROGRAM_HEADER)?, &mut segment).ok()?;
            let (at, len) = (to_usize(u64_at(&segment, 8)), to_usize(u64_at(&segment, 0x20)));
            let is_note = u32_at(&segment, 0) == PT_NOTE;
            is_note.then(|| build_id_of_notes(&self.bytes(at..at.checked_add(len)?)?))?
        })
    }

    pub(super) fn debug_link(&self) -> Option<DebugLink> {
        let bytes = self.small(".gnu_debuglink")?;
        let len = bytes.iter().position(|&byte| byte == 0)?;
        let crc = bytes.get((len + 1).next_multiple_of(4)..)?.get(..4)?;
        let file_name = PathBuf::from(std::str::from_utf8(&bytes[..len]).ok()?);
        // The link is a name, never a path.
        let is_name = file_name.file_name() == Some(file_name.as_os_str());
        is_name.then(|| DebugLink { file_name, crc: u32_at(crc, 0) })
    }

    pub(super) fn alt_link(&self) -> Option<AltLink> {
        let bytes = self.small(".gnu_debugaltlink")?;
        let len = bytes.iter().position(|&byte| byte == 0)?;
        let path = PathBuf::from(std::str::from_utf8(&bytes[..len]).ok()?);
        Some(AltLink { path, build_id: BuildId::new(&bytes[len + 1..])? })
    }

    /// Returns the checksum of the file that a `.gnu_debuglink` to it has.
    pub(super) fn crc(&self, budget: Option<&ChecksumBudget>) -> Result<u32, SymbolFileError> {
        let is_permitted = |budget: &ChecksumBudget| budget.take(self.source.len() as u64);
        if self.source.len() > MAX_CHECKED || !budget.is_none_or(is_permitted) {
            return Err(SymbolFileError::TooLarge { path: self.path.clone(), limit: MAX_CHECKED as u64 });
        }
        let mut crc = 0;
        let mut stream = Stream::new(&self.source, 0..self.source.len());
        let mut buffer = vec![0; 256 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(crc),
                Ok(len) => crc = zlib_rs::crc32::crc32(crc, &buffer[..len]),
                Err(_) => return Err(self.error(ReadError::OutOfRange, "content")),
            }
        }
    }

    /// Returns a reader of a section of debug information, decompressed; one without any byte where
    /// the file does not have it.
    pub(super) fn reader(&self, name: &'static str) -> Result<SourceReader, SymbolFileError> {
        let old_name = name.strip_prefix(".debug_").map(|rest| format!(".zdebug_{rest}"));
        let (source, range) = if let Some(section) = self.section(name) {
            if section.range.end > self.source.len() {
                return Err(SymbolFileError::malformed(&self.path, name));
            }
            if section.flags & SHF_COMPRESSED == 0 {
                (self.source.clone(), section.range.clone())
            } else {
                self.decompressed(&section.range, name)?
            }
        } else if let Some(section) = old_name.and_then(|name| self.section(&name)) {
            self.decompressed_old(&section.range, name)?
        } else {
            return Ok(SourceReader::none());
        };
        Ok(SourceReader::new(source, range))
    }

    /// Decompresses a section that starts with a compression header.
    fn decompressed(
        &self,
        range: &Range<usize>,
        name: &'static str,
    ) -> Result<(Arc<ByteSource>, Range<usize>), SymbolFileError> {
        let mut header = [0; 24];
        self.source.copy(range.start, &mut header).map_err(|error| self.error(error, name))?;
        let stream = Stream::new(&self.source, range.start + header.len()..range.end);
        let len = u64_at(&header, 8);
        match u32_at(&header, 0) {
            COMPRESSED_BY_ZLIB => self.inflated(ZlibDecoder::new(stream), len, name),
            COMPRESSED_BY_ZSTD => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(stream);
                self.inflated(decoder.map_err(|_| SymbolFileError::malformed(&self.path, name))?, len, name)
            }
            _ => Err(SymbolFileError::malformed(&self.path, name)),
        }
    }

    /// Decompresses a `.zdebug` section: `ZLIB`, and the length as a big-endian number.
    fn decompressed_old(
        &self,
        range: &Range<usize>,
        name: &'static str,
    ) -> Result<(Arc<ByteSource>, Range<usize>), SymbolFileError> {
        let mut header = [0; 12];
        self.source.copy(range.start, &mut header).map_err(|error| self.error(error, name))?;
        let [b'Z', b'L', b'I', b'B', len @ ..] = header else {
            return Err(SymbolFileError::malformed(&self.path, name));
        };
        let stream = Stream::new(&self.source, range.start + header.len()..range.end);
        self.inflated(ZlibDecoder::new(stream), u64::from_be_bytes(len), name)
    }

    /// Reads a section of `len` bytes from its decoder.
    fn inflated(
        &self,
        mut decoder: impl Read,
        len: u64,
        name: &'static str,
    ) -> Result<(Arc<ByteSource>, Range<usize>), SymbolFileError> {
        self.budget.take(len).map_err(|error| self.error(error, name))?;
        let Some(mut bytes) = Pages::new(to_usize(len)) else {
            return Err(self.error(ReadError::OverBudget, name));
        };
        // The length is a claim of the file. No more than that is ever read.
        if decoder.read_exact(&mut bytes).is_err() || !matches!(decoder.read(&mut [0]), Ok(0)) {
            return Err(SymbolFileError::malformed(&self.path, name));
        }
        let range = 0..bytes.len();
        Ok((Arc::new(ByteSource::Memory(bytes)), range))
    }

    /// Returns the table of all symbols, or of those that other modules can use where the file has
    /// no other.
    pub(super) fn symbols(&self) -> Option<SymbolSections> {
        let table = |kind| self.sections.iter().find(|section| section.kind == kind && !section.range.is_empty());
        let table = table(SHT_SYMTAB).or_else(|| table(SHT_DYNSYM))?;
        let names = self.sections.get(table.link)?;
        Some(SymbolSections {
            source: self.source.clone(),
            entries: table.range.start..table.range.end.min(self.source.len()),
            names: SourceReader::new(self.source.clone(), names.range.clone()),
            is_code: self.sections.iter().map(|section| section.flags & SHF_EXECINSTR != 0).collect(),
        })
    }

    /// Returns where the table of all symbols is, if the file has it.
    #[cfg(all(
        feature = "capture",
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    pub(super) fn symbol_ranges(&self) -> Option<SymbolRanges> {
        let is_table = |section: &&Section| section.kind == SHT_SYMTAB && !section.range.is_empty();
        let table = self.sections.iter().find(is_table)?;
        let names = self.sections.get(table.link)?;
        Some(SymbolRanges { source: self.source.clone(), entries: table.range.clone(), names: names.range.clone() })
    }

    /// Returns the identity of the file.
    pub(super) fn id(&self) -> FileId {
        self.source.file_id().unwrap_or_default()
    }

    /// Returns whether the file has the table of all symbols, which `strip` removes.
    pub(super) fn has_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.kind == SHT_SYMTAB && !section.range.is_empty())
    }
}

/// Returns a number of a file as a position, which is too large to be valid on a machine where it
/// does not fit.
pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
