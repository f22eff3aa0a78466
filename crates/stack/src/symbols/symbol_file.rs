//! Symbols of a file by offset, for stacks of another machine.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::error::SymbolFileError;
use super::inlined;
use super::tables::{SymbolRequest, Tables};
use crate::panics::catches_panic;
use crate::{BuildId, Frame, Module};

/// The bytes that may be read of one file and its debug files. It bounds what a damaged file can
/// do; the tables of a real program take a fraction of it.
const LIMIT: u64 = 8 << 30;

/// The symbols of a program or library on disk: functions and lines by offset.
///
/// With it a stack that was captured where symbols are missing, such as on a server with a stripped
/// binary, is symbolized elsewhere. Each [`Frame`] of such a stack has a
/// [`module_info`](Frame::module_info) with the build id, and an [`offset`](Frame::offset).
///
/// Debug information is read from the file, from its separate debug file (by build id in
/// `/usr/lib/debug`, or by `.gnu_debuglink`), and from split files (`.dwp` beside it, `.dwo`).
///
/// ```no_run
/// use pollwatch_stack::{Frame, SymbolFile, SymbolFileError};
///
/// /// Returns the functions at a frame that has none, from a file with symbols.
/// fn symbolize(frame: &Frame, path: &str) -> Result<Vec<Frame>, SymbolFileError> {
///     let file = SymbolFile::open(path)?;
///     if let Some(id) = frame.module_info.as_ref().and_then(|module| module.build_id.as_ref()) {
///         file.check_build_id(id)?;
///     }
///     Ok(file.frames(frame.offset))
/// }
/// ```
pub struct SymbolFile {
    module: Arc<Module>,
    tables: Tables,
}

impl SymbolFile {
    /// Opens a file and finds its debug information, on any platform.
    ///
    /// The file may be the program or library itself, unstripped, or its separate debug file.
    ///
    /// ```
    /// use pollwatch_stack::{SymbolFile, SymbolFileError};
    ///
    /// let error = SymbolFile::open("Cargo.toml").unwrap_err();
    /// assert!(matches!(error, SymbolFileError::NotElf { .. }), "{error}");
    /// ```
    ///
    /// # Errors
    ///
    /// [`SymbolFileError`] says why the file cannot be used. A file without any symbol is no error:
    /// see [`has_symbols`](Self::has_symbols).
    pub fn open(path: impl AsRef<Path>) -> Result<SymbolFile, SymbolFileError> {
        let path = path.as_ref();
        // Debug files are searched for beside the file itself, not beside a link to it.
        let real = path.canonicalize().map_err(|source| SymbolFileError::io(path, source))?;
        let mut tables = Err(SymbolFileError::malformed(path, "content"));
        catches_panic(|| tables = Tables::open(&SymbolRequest { path: &real, ..SymbolRequest::new(path, LIMIT) }));
        let tables = tables?;
        let module = Arc::new(Module { path: real, build_id: tables.build_id().cloned() });
        Ok(SymbolFile { module, tables })
    }

    /// Returns the path, without symbolic links, and the build id.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Checks that the file is of the build that a stack was captured in.
    ///
    /// # Errors
    ///
    /// [`SymbolFileError::OtherBuild`] if the file has another build id, or none.
    pub fn check_build_id(&self, expected: &BuildId) -> Result<(), SymbolFileError> {
        if self.module.build_id.as_ref() == Some(expected) {
            return Ok(());
        }
        Err(SymbolFileError::OtherBuild {
            path: self.module.path.clone(),
            expected: expected.clone(),
            found: self.module.build_id.clone(),
        })
    }

    /// Returns whether the file has symbols: debug information, or names of functions at least.
    pub fn has_symbols(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Returns whether there is debug information, from which lines and inlined functions come.
    pub fn has_lines(&self) -> bool {
        self.tables.has_lines()
    }

    /// Returns the functions at an offset: the innermost inlined one first, and the one that they
    /// were inlined into last. There are none where the file has no symbol for the offset.
    ///
    /// An offset is the address of the code as the linker has assigned it. For the caller of a
    /// function it is that of the last byte of the call, as in [`Frame::offset`].
    pub fn frames(&self, offset: u64) -> Vec<Frame> {
        let unknown = Frame {
            module: Some(self.module.name()),
            module_info: Some(self.module.clone()),
            offset,
            ..Frame::default()
        };
        let mut frames = Vec::new();
        // A malformed table may make the reader panic.
        catches_panic(|| frames = inlined::frames(&self.tables, offset, true, &unknown));
        frames
    }

    /// Returns what was found and could not be used since the last call, such as a debug file of
    /// another build. Each text is for a person.
    pub fn take_problems(&self) -> Vec<String> {
        let (mut problems, _) = self.tables.problems.take();
        if self.tables.is_over_budget() {
            problems.push(SymbolFileError::TooLarge { path: self.module.path.clone(), limit: LIMIT }.to_string());
        }
        problems
    }

    /// Returns the number of bytes of files that are in memory. What they are parsed into comes on
    /// top.
    pub fn bytes_held(&self) -> u64 {
        self.tables.bytes()
    }
}

impl fmt::Debug for SymbolFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SymbolFile")
            .field("module", &self.module)
            .field("file", &self.tables.id())
            .finish_non_exhaustive()
    }
}
