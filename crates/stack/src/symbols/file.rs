//! Files that are open for reading.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::foreign;

/// A regular file: no pipe, device or directory. Opening one does not wait for the other end of a
/// pipe.
#[derive(Debug)]
pub(super) struct RegularFile {
    file: Option<Arc<File>>,
    pub(super) len: u64,
    pub(super) id: FileId,
    /// True for a file of another process, the file system of which may never answer.
    is_foreign: bool,
    /// True once it has not answered. Then it is not asked again.
    is_lost: AtomicBool,
}

/// The number of a file in its file system, and the device of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> FileId {
        use std::os::unix::fs::MetadataExt;
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }

    #[cfg(not(unix))]
    fn of(_metadata: &Metadata) -> FileId {
        FileId::default()
    }
}

impl RegularFile {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> io::Result<RegularFile> {
        let is_foreign = foreign::is_foreign(path);
        let (file, metadata) = if is_foreign { foreign::open(path)? } else { open_own(path)? };
        Ok(RegularFile {
            file: Some(Arc::new(file)),
            len: metadata.len(),
            id: FileId::of(&metadata),
            is_foreign,
            is_lost: AtomicBool::new(false),
        })
    }

    /// Fills a buffer from a position of the file.
    pub(super) fn read_at(&self, start: u64, to: &mut [u8]) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        if !self.is_foreign {
            return read_own(file, start, to);
        }
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let read = foreign::read_at(file, start, to);
        if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            self.is_lost.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl Drop for RegularFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take().filter(|_| self.is_foreign) {
            foreign::close(file);
        }
    }
}

fn open_own(path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata))
}

#[cfg(unix)]
fn read_own(file: &File, start: u64, to: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, start)
}

#[cfg(not(unix))]
fn read_own(mut file: &File, start: u64, to: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(to))
}
