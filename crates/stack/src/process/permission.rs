//! The reasons for which the kernel does not let this process read another one, in the order in
//! which it checks them (`ptrace(2)`, "Ptrace access mode checking").

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;

use super::identity::status_field;
use super::{Denial, ProcessError};
use crate::Pid;
use crate::capture::OtherMemory;
use crate::procfs::ProcessFolder;
use crate::symbols::foreign;

/// The capability to trace any process.
const CAP_SYS_PTRACE: u32 = 19;
/// The number of this processor's kind in ELF files.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Checks that memory and system calls can be read, which the kernel permits to whom it permits to
/// attach.
pub(super) fn check_attach(pid: Pid, anchor: Pid, memory: &OtherMemory) -> Result<(), ProcessError> {
    let syscall = ProcessFolder::of(anchor).path("syscall");
    match fs::read(syscall) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(explain(pid, anchor, error)),
        // It has ended, or the kernel does not have the file: then its memory says more.
        _ => memory.check().map_err(|error| explain(pid, anchor, error)),
    }
}

/// Checks that the program is one for this processor, of 64 bits. A program that cannot be opened
/// is assumed to be one.
pub(super) fn check_architecture(pid: Pid, anchor: Pid) -> Result<(), ProcessError> {
    let header = foreign::read_start::<20>(&ProcessFolder::of(anchor).path("exe"));
    let is_expected =
        |header: [u8; 20]| header.starts_with(b"\x7fELF\x02\x01") && header[18..] == MACHINE.to_le_bytes();
    if header.is_ok_and(|header| !is_expected(header)) { Err(ProcessError::OtherArchitecture { pid }) } else { Ok(()) }
}

/// Returns why the files or the memory of a process cannot be read.
pub(super) fn explain(pid: Pid, anchor: Pid, error: io::Error) -> ProcessError {
    match error.kind() {
        ErrorKind::PermissionDenied => ProcessError::Denied { pid, denial: denial(anchor) },
        ErrorKind::NotFound => ProcessError::Exited { pid },
        _ if error.raw_os_error() == Some(libc::ESRCH) => ProcessError::Exited { pid },
        _ => ProcessError::Io { pid, source: error },
    }
}

/// Returns which check of the kernel fails.
pub(super) fn denial(anchor: Pid) -> Denial {
    let own = Pid::current();
    let capabilities = |pid, title: &str| hex_field(pid, title).unwrap_or(0);
    let has_capability = capabilities(own, "CapEff:") & (1 << CAP_SYS_PTRACE) != 0;
    let is_in_own_namespace = is_in_own_namespace(anchor);
    if has_capability {
        return match is_in_own_namespace {
            true if yama_scope() == Some(3) => Denial::Yama { scope: 3 },
            true => Denial::Filtered,
            false => Denial::OtherUserNamespace,
        };
    }
    let users = |pid, title: &str| -> Option<Vec<u32>> {
        let field = status_field(pid, title).ok()??;
        field.split_ascii_whitespace().map(|id| id.parse().ok()).collect()
    };
    // The ids in `status` are: real, effective, saved, and that of the file system.
    let (theirs, mine) = (users(anchor, "Uid:").unwrap_or_default(), users(own, "Uid:").unwrap_or_default());
    let mine = mine.first().copied().unwrap_or_default();
    if let Some(&user) = theirs.iter().take(3).find(|&&user| user != mine) {
        return Denial::OtherUser { user, own: mine };
    }
    // The files of a process that is not dumpable belong to root.
    let owner = fs::metadata(ProcessFolder::of(anchor).path("maps")).map(|file| file.uid());
    if owner.is_ok_and(|owner| owner != mine) {
        return Denial::NotDumpable;
    }
    if !is_in_own_namespace {
        return Denial::OtherUserNamespace;
    }
    if capabilities(anchor, "CapPrm:") & !capabilities(own, "CapPrm:") != 0 {
        return Denial::Capabilities;
    }
    match yama_scope() {
        Some(scope @ 1..) => Denial::Yama { scope },
        _ => Denial::Filtered,
    }
}

/// Returns whether a process is in the user namespace of this one. Where the kernel does not say,
/// two processes of the initial namespace are recognised by their users.
fn is_in_own_namespace(anchor: Pid) -> bool {
    let link = |folder: ProcessFolder| fs::read_link(folder.path("ns/user"));
    if let (Ok(own), Ok(theirs)) = (link(ProcessFolder::OWN), link(ProcessFolder::of(anchor))) {
        return own == theirs;
    }
    let is_initial = |folder: ProcessFolder| {
        let map = fs::read_to_string(folder.path("uid_map")).unwrap_or_default();
        map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
    };
    is_initial(ProcessFolder::OWN) && is_initial(ProcessFolder::of(anchor))
}

fn hex_field(pid: Pid, title: &str) -> Option<u64> {
    u64::from_str_radix(&status_field(pid, title).ok()??, 16).ok()
}

fn yama_scope() -> Option<u8> {
    fs::read_to_string(YAMA).ok()?.trim().parse().ok()
}
