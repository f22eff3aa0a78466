//! The tables of one binary: its functions, lines and inlined functions, from wherever they are.

use std::path::Path;
use std::sync::Arc;

use addr2line::gimli::{AbbreviationsCacheStrategy, Dwarf};
use addr2line::{Context, FrameIter, LookupContinuation, LookupResult};

use super::Problems;
use super::checksums::ChecksumBudget;
use super::elf::ElfFile;
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
use super::elf::SymbolRanges;
use super::error::SymbolFileError;
use super::file::FileId;
use super::reader::SourceReader;
use super::roots::{OWN_ROOT, Roots};
use super::separate;
use super::source::Budget;
use super::split::SplitLoader;
use super::symbol_table::SymbolTable;
use crate::BuildId;

/// The binary that is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SymbolRequest<'a> {
    /// The file that is read.
    pub(crate) file: &'a Path,
    /// The path beside which debug files are searched for, in each of the roots. It may lead to
    /// another file by now.
    pub(crate) path: &'a Path,
    /// The root folders below which `path` and the debug files may be.
    pub(crate) roots: &'a Roots,
    /// The build id that the file must have.
    pub(crate) expected: Option<&'a BuildId>,
    /// The bytes that may be held in memory.
    pub(crate) limit: u64,
    /// True if lines and inlined functions are not read.
    pub(crate) names_only: bool,
    /// The folder of installed debug files.
    pub(crate) debug_folder: &'a Path,
    /// The limit of checksums; `None` for a binary that is trusted.
    pub(crate) checksums: Option<&'a ChecksumBudget>,
}

impl<'a> SymbolRequest<'a> {
    /// Makes the request for all symbols of a file.
    pub(crate) fn new(file: &'a Path, limit: u64) -> SymbolRequest<'a> {
        let debug_folder = Path::new(separate::DEBUG_FOLDER);
        SymbolRequest {
            file,
            path: file,
            roots: &OWN_ROOT,
            expected: None,
            limit,
            names_only: false,
            debug_folder,
            checksums: None,
        }
    }
}

/// The tables of one binary.
pub(crate) struct Tables {
    functions: SymbolTable,
    /// `None` where there is no debug information.
    lines: Option<Lines>,
    build_id: Option<BuildId>,
    id: FileId,
    budget: Arc<Budget>,
    pub(crate) problems: Problems,
}

/// Where the names of a binary's functions are.
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
pub(crate) struct FoundSymbols {
    /// The identity of the binary's file.
    pub(crate) id: FileId,
    /// `None` if both the binary and its debug file are stripped.
    pub(crate) ranges: Option<SymbolRanges>,
}

/// Functions with their lines.
struct Lines {
    context: Context<SourceReader>,
    split: SplitLoader,
}

impl Tables {
    /// Opens a binary and finds its debug information.
    pub(crate) fn open(request: &SymbolRequest<'_>) -> Result<Tables, SymbolFileError> {
        let SymbolRequest { limit, names_only, .. } = *request;
        let (budget, problems) = (Arc::new(Budget::new(limit)), Problems::default());
        let binary = ElfFile::open_expected(request, &budget)?;
        let separate = if separate::has_debug_information(&binary) {
            None
        } else {
            separate::open(&binary, request, &budget, &problems)
        };
        let with_lines = separate.as_ref().unwrap_or(&binary);
        // Split debug information and damaged tables leave the names of the symbol table.
        let lines = if names_only { Ok(None) } else { Lines::load(with_lines, request, &budget, &problems) };
        let lines = lines.map_err(|error| problems.add(error)).ok().flatten();
        let with_symbols = if binary.has_symbols() { &binary } else { with_lines };
        let functions = SymbolTable::read(with_symbols.symbols(), &budget);
        let id = binary.id();
        Ok(Tables { functions, lines, build_id: binary.build_id, id, budget, problems })
    }

    /// Finds the names of a binary's functions: in the binary, or in its debug file.
    #[cfg(all(
        feature = "capture",
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    pub(crate) fn find_symbols(request: &SymbolRequest<'_>) -> Result<FoundSymbols, SymbolFileError> {
        let (budget, problems) = (Arc::new(Budget::new(request.limit)), Problems::default());
        let binary = ElfFile::open_expected(request, &budget)?;
        let own = binary.symbol_ranges();
        let in_debug_file = || separate::open(&binary, request, &budget, &problems)?.symbol_ranges();
        Ok(FoundSymbols { id: binary.id(), ranges: own.or_else(in_debug_file) })
    }

    /// Returns the identity of the binary's file.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(crate) fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// Returns whether there is debug information, from which lines and inlined functions come.
    pub(crate) fn has_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// Returns whether there is neither debug information nor any symbol.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_none() && self.functions.is_empty()
    }

    /// Returns whether the tables would have taken more memory than they may.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.budget.is_exhausted()
    }

    /// Returns the number of bytes that were read into memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Returns the mangled name of the function at an offset.
    pub(super) fn find_symbol(&self, offset: u64) -> Option<String> {
        self.functions.find(offset)
    }

    /// Returns the calls at an offset, the innermost inlined one first; `None` without debug
    /// information.
    pub(super) fn find_calls(&self, offset: u64) -> Option<FrameIter<'_, SourceReader>> {
        let Lines { context, split } = self.lines.as_ref()?;
        let mut found = context.find_frames(offset);
        loop {
            match found {
                LookupResult::Output(calls) => return calls.ok(),
                LookupResult::Load { load, continuation } => {
                    found = continuation.resume(split.load(&load, &self.problems));
                }
            }
        }
    }
}

impl Lines {
    fn load(
        file: &ElfFile,
        request: &SymbolRequest<'_>,
        budget: &Arc<Budget>,
        problems: &Problems,
    ) -> Result<Option<Lines>, SymbolFileError> {
        if !separate::has_debug_information(file) {
            return Ok(None);
        }
        let mut dwarf = Dwarf::load(|id| file.reader(id.name()))?;
        if let Some(supplementary) = separate::open_supplementary(file, request, budget, problems) {
            dwarf.load_sup(|id| supplementary.reader(id.name()))?;
        }
        dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
        let context = Context::from_dwarf(dwarf).map_err(|_| match budget.is_exhausted() {
            true => SymbolFileError::TooLarge { path: file.path.clone(), limit: budget.limit() },
            false => SymbolFileError::malformed(&file.path, "debug information"),
        })?;
        let split = SplitLoader::open(file, request, budget, problems);
        Ok(Some(Lines { context, split }))
    }
}
