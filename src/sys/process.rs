//! The end of the process, and its standard error, without locks of the standard library: a blocked
//! thread may hold them.

#[cfg(unix)]
mod imp {
    use std::fs::File;
    use std::io::{self, Write};
    use std::mem::ManuallyDrop;
    use std::os::fd::FromRawFd;

    pub(crate) fn exit_at_once(code: i32) -> ! {
        // SAFETY: `_exit` ends the process. It runs no code of this program.
        unsafe { libc::_exit(code) }
    }

    pub(crate) fn write_to_stderr(text: &[u8]) -> io::Result<()> {
        // SAFETY: `ManuallyDrop` keeps the descriptor from being closed. Where the program has
        // closed it, or opened another file under its number, the text goes where `eprintln` would
        // write it.
        let mut stderr = ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDERR_FILENO) });
        stderr.write_all(text)
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io::{self, Write};

    pub(crate) fn exit_at_once(code: i32) -> ! {
        std::process::exit(code)
    }

    pub(crate) fn write_to_stderr(text: &[u8]) -> io::Result<()> {
        io::stderr().write_all(text)
    }
}

/// Ends the process. On Unix no destructor and no `atexit` handler runs.
pub(crate) use imp::exit_at_once;

/// Writes to the standard error, on Unix without the lock of [`std::io::stderr`]. Waits while a
/// pipe is full.
pub(crate) use imp::write_to_stderr;
