use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::BuildId;

/// The reason why a file gives no symbols.
#[derive(Debug)]
#[non_exhaustive]
pub enum SymbolFileError {
    /// The file cannot be opened or read.
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is no 64-bit little-endian ELF file, which programs for Linux on `x86_64` and
    /// `aarch64` are.
    NotElf {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file is truncated or damaged.
    Malformed {
        /// The path of the file.
        path: PathBuf,
        /// The part of the file that cannot be read.
        part: &'static str,
    },
    /// The file is not of the build that it should describe.
    OtherBuild {
        /// The path of the file.
        path: PathBuf,
        /// The build id of the program or library.
        expected: BuildId,
        /// The build id of the file, if it has one.
        found: Option<BuildId>,
    },
    /// The `.dwo` file has another unit than the one that the program refers to.
    OtherUnit {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file has another checksum than the program's `.gnu_debuglink` names.
    OtherChecksum {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file takes more memory than symbols may.
    TooLarge {
        /// The path of the file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

impl SymbolFileError {
    pub(crate) fn io(path: &Path, source: io::Error) -> SymbolFileError {
        SymbolFileError::Io { path: path.into(), source }
    }

    pub(super) fn malformed(path: &Path, part: &'static str) -> SymbolFileError {
        SymbolFileError::Malformed { path: path.into(), part }
    }

    /// Returns whether there is no file by this path.
    pub(super) fn is_missing(&self) -> bool {
        let is_missing = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        matches!(self, SymbolFileError::Io { source, .. } if is_missing(source))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        match self {
            SymbolFileError::Io { path, .. }
            | SymbolFileError::NotElf { path }
            | SymbolFileError::Malformed { path, .. }
            | SymbolFileError::OtherBuild { path, .. }
            | SymbolFileError::OtherUnit { path }
            | SymbolFileError::OtherChecksum { path }
            | SymbolFileError::TooLarge { path, .. } => path,
        }
    }
}

impl fmt::Display for SymbolFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().display();
        match self {
            SymbolFileError::Io { source, .. } => write!(f, "{path} cannot be read: {source}"),
            SymbolFileError::NotElf { .. } => {
                write!(f, "{path} is not a 64-bit little-endian ELF file (a program for Linux on x86_64 or aarch64)")
            }
            SymbolFileError::Malformed { part, .. } => write!(f, "{path} is truncated or damaged: its {part}"),
            SymbolFileError::OtherBuild { expected, found: Some(found), .. } => {
                write!(f, "{path} is of another build: its build id is {found}, not {expected}")
            }
            SymbolFileError::OtherBuild { expected, found: None, .. } => {
                write!(f, "{path} may be of another build: it has no build id, and {expected} is needed")
            }
            SymbolFileError::OtherUnit { .. } => {
                write!(f, "{path} is of another build: the id of its unit is not the one in the program")
            }
            SymbolFileError::OtherChecksum { .. } => {
                write!(f, "{path} is of another build: its checksum is not the one in .gnu_debuglink")
            }
            SymbolFileError::TooLarge { limit, .. } => {
                write!(f, "{path} is too large: its symbols take more than {} MiB of memory", limit >> 20)
            }
        }
    }
}

impl std::error::Error for SymbolFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SymbolFileError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
