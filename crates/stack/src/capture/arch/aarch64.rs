//! aarch64: captures by signal, and from system calls without one.
//!
//! Of a thread in a system call, only the stack pointer and the program counter are known. Its link
//! register is [searched](super::super::return_address), its frame pointer computed from the code.

use super::a64::{self, Call};
use framehop::aarch64::{PtrAuthMask, UnwindRegsAarch64};

/// The number of registers that are copied besides the stack pointer: program counter, link
/// register, frame pointer.
pub(crate) const REGS: usize = 3;

/// The number of a function's first bytes from which [`frame_size`] is decoded.
pub(crate) const PROLOGUE: usize = 128;

/// False: a call keeps its return address in a register.
pub(crate) const CALL_PUSHES: bool = false;

/// True: functions may sign their return addresses.
pub(crate) const SIGNS_RETURN_ADDRESSES: bool = true;

/// True: glibc's `start_thread`, which calls a thread's function, finds its frame by its frame
/// pointer, and has saved the frame pointer 0 of its own caller.
pub(crate) const STARTS_AT_ZERO: bool = true;

/// False: frame pointers are not computed anew while a panic unwinds.
pub(crate) const CHECKS_UNWINDER: bool = false;

/// The bits of an address in Linux' user space. The bits above may sign a return address.
const USER_ADDRESSES: u64 = u64::MAX >> 16;

/// An unknown frame pointer: an address at which every read fails.
pub(crate) const UNKNOWN: u64 = 0xdead_dead_dead_0000;

/// The registers at which unwinding starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regs {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    pub(crate) lr: u64,
}

impl Regs {
    pub(crate) fn new(sp: u64, [ip, lr, fp]: [u64; REGS]) -> Regs {
        Regs { ip, sp, fp, lr }
    }

    pub(crate) fn from_unwinder(ip: u64, regs: &UnwindRegsAarch64) -> Regs {
        Regs { ip, sp: regs.sp(), fp: regs.fp(), lr: regs.lr() }
    }

    pub(crate) fn unwinder(self) -> UnwindRegsAarch64 {
        UnwindRegsAarch64::new_with_ptr_auth_mask(PtrAuthMask(USER_ADDRESSES), self.lr, self.sp, self.fp)
    }
}

/// Returns the stack pointer and the registers of an interrupted thread.
///
/// # Safety
///
/// `context` is the one that the kernel passed to a signal handler.
pub(crate) unsafe fn from_context(context: *const libc::ucontext_t) -> (u64, [u64; REGS]) {
    // SAFETY: the caller guarantees it.
    let regs = unsafe { &(*context).uc_mcontext };
    (regs.sp, [regs.pc, regs.regs[30], regs.regs[29]])
}

impl Regs {
    /// Returns the registers of a thread that a debugger has stopped.
    pub(crate) fn of_user(regs: &libc::user_regs_struct) -> Regs {
        Regs::new(regs.sp, [regs.pc, regs.regs[30], regs.regs[29]])
    }
}

/// Where a thread was when a debugger stopped it. It is not known here: this kernel decides whether
/// a system call starts again before the thread stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the same variants as on x86_64")]
pub(crate) enum SyscallReturn {
    /// Not in a system call, as far as is known.
    None,
    /// At the end of one.
    Normal,
    /// At the end of one that starts again.
    Changed,
}

impl SyscallReturn {
    /// Finds nothing.
    pub(crate) fn of(_regs: &mut libc::user_regs_struct) -> SyscallReturn {
        SyscallReturn::None
    }
}

/// The number of bytes of code that [`is_signal_return`] needs.
pub(crate) const SIGNAL_RETURN: usize = 8;

/// Returns whether code is that to which a signal handler returns: `mov x8, 139; svc 0`.
pub(crate) fn is_signal_return(code: &[u8; SIGNAL_RETURN]) -> bool {
    *code == [0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4]
}

/// Returns the registers of a function that a signal has interrupted. `word` reads the stack, and
/// `sp` is the stack pointer where the handler returns: the `siginfo_t` is there.
pub(crate) fn interrupted(sp: u64, word: impl Fn(u64) -> Option<u64>) -> Option<Regs> {
    // The `siginfo_t` has 128 bytes. The registers follow 184 bytes after the start of the
    // `ucontext_t`: its flags, link, signal stack and signal mask, and the fault's address.
    let start = sp.checked_add(128 + 184)?;
    let register = |index: u64| word(start.checked_add(8 * index)?);
    let [fp, lr, sp, ip] = [register(29)?, register(30)?, register(31)?, register(32)?];
    Some(Regs::new(sp, [ip, lr, fp]))
}

/// Copies bytes in assembly, outside of the language's memory model.
///
/// # Safety
///
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller guarantees it.
    unsafe {
        std::arch::asm!(
            "2:",
            "cbz {len}, 3f",
            "ldrb {byte:w}, [{from}], #1",
            "strb {byte:w}, [{to}], #1",
            "sub {len}, {len}, #1",
            "b 2b",
            "3:",
            len = inout(reg) len => _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            byte = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// Returns what the call before a return address calls; `None` if no call is there. `before` is the
/// code that ends at the address. The target of an indirect call is not known.
pub(crate) fn called(before: &[u8; 8], return_address: u64) -> Option<Option<u64>> {
    let [.., a, b, c, d] = *before;
    Some(match a64::call(u32::from_le_bytes([a, b, c, d]), return_address.wrapping_sub(4))? {
        Call::Direct(target) => Some(target),
        Call::Indirect => None,
    })
}

/// Returns the address that a word of the stack means as a return address. It may be signed.
pub(crate) fn return_address(word: u64) -> u64 {
    word & USER_ADDRESSES
}

/// Returns whether a return address is the link register's unknown value.
pub(crate) fn is_unknown_return(address: u64) -> bool {
    address == UNKNOWN & USER_ADDRESSES
}

/// Returns how far below its frame pointer a function's stack pointer is in its body.
pub(crate) fn frame_size(code: &[u8]) -> Option<u64> {
    a64::frame_size(code)
}
