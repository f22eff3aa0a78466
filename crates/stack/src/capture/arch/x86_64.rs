//! x86_64: captures by signal, and from system calls without one.

use framehop::x86_64::UnwindRegsX86_64;

/// The number of registers that are copied besides the stack pointer: instruction pointer, those
/// that a call keeps, frame pointer.
pub(crate) const REGS: usize = 7;

/// The number of a function's first bytes from which [`frame_size`] is decoded.
pub(crate) const PROLOGUE: usize = 64;

/// True: a call pushes its return address.
pub(crate) const CALL_PUSHES: bool = true;

/// False: there is no instruction for it.
pub(crate) const SIGNS_RETURN_ADDRESSES: bool = false;

/// False: the function that calls a thread's function is found by its stack pointer.
pub(crate) const STARTS_AT_ZERO: bool = false;

/// True: frame pointers are computed anew while a panic unwinds.
pub(crate) const CHECKS_UNWINDER: bool = true;

/// An unknown frame pointer: an address at which every read fails.
pub(crate) const UNKNOWN: u64 = 0xdead_dead_dead_0000;

/// The registers at which unwinding starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regs {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    pub(crate) saved: SavedRegs,
}

/// The registers that a call keeps, besides the pointers: each its value or [`UNKNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedRegs {
    pub(crate) rbx: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
}

impl SavedRegs {
    const UNKNOWN: SavedRegs = SavedRegs { rbx: UNKNOWN, r12: UNKNOWN, r13: UNKNOWN, r14: UNKNOWN, r15: UNKNOWN };
}

impl Regs {
    pub(crate) fn new(sp: u64, [ip, rbx, r12, r13, r14, r15, fp]: [u64; REGS]) -> Regs {
        Regs { ip, sp, fp, saved: SavedRegs { rbx, r12, r13, r14, r15 } }
    }

    pub(crate) fn from_unwinder(ip: u64, regs: &UnwindRegsX86_64) -> Regs {
        Regs { ip, sp: regs.sp(), fp: regs.bp(), saved: SavedRegs::UNKNOWN }
    }

    pub(crate) fn unwinder(self) -> UnwindRegsX86_64 {
        UnwindRegsX86_64::new(self.ip, self.sp, self.fp)
    }
}

/// Returns the stack pointer and the registers of an interrupted thread.
///
/// # Safety
///
/// `context` is the one that the kernel passed to a signal handler.
pub(crate) unsafe fn from_context(context: *const libc::ucontext_t) -> (u64, [u64; REGS]) {
    // SAFETY: the caller guarantees it.
    let regs = unsafe { &(*context).uc_mcontext.gregs };
    let get = |reg: libc::c_int| regs[reg as usize] as u64;
    let saved = [libc::REG_RBX, libc::REG_R12, libc::REG_R13, libc::REG_R14, libc::REG_R15].map(get);
    let [rbx, r12, r13, r14, r15] = saved;
    (get(libc::REG_RSP), [get(libc::REG_RIP), rbx, r12, r13, r14, r15, get(libc::REG_RBP)])
}

impl Regs {
    /// Returns the registers of a thread that a debugger has stopped.
    pub(crate) fn of_user(regs: &libc::user_regs_struct) -> Regs {
        Regs::new(regs.rsp, [regs.rip, regs.rbx, regs.r12, regs.r13, regs.r14, regs.r15, regs.rbp])
    }
}

/// Where a thread was when a debugger stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyscallReturn {
    /// Not in a system call.
    None,
    /// At the end of one, which the stop does not change.
    Normal,
    /// At the end of one that would have failed with `EINTR`. The registers have been changed so
    /// that the kernel starts it again.
    Changed,
}

impl SyscallReturn {
    /// Finds where a thread was stopped.
    ///
    /// Some system calls fail with `EINTR` when a debugger stops a thread in them, as described in
    /// `signal(7)`, "Interruption of system calls and library functions by stop signals". Those of
    /// the list below have done nothing then. Their result is replaced by the one with which the
    /// kernel's other calls say that they have to be started again, unless a signal handler runs
    /// first.
    ///
    /// A call with a timeout that starts again waits for its whole timeout anew.
    pub(crate) fn of(regs: &mut libc::user_regs_struct) -> SyscallReturn {
        const RESTARTS: u64 = -514i64 as u64;
        const INTERRUPTED: u64 = -(libc::EINTR as i64) as u64;
        const WITHOUT_EFFECT: [i64; 20] = [
            libc::SYS_epoll_wait,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            libc::SYS_io_getevents,
            libc::SYS_io_uring_enter,
            libc::SYS_semop,
            libc::SYS_semtimedop,
            libc::SYS_rt_sigtimedwait,
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_accept,
            libc::SYS_accept4,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_sendmmsg,
            libc::SYS_recvmmsg,
        ];
        let call = regs.orig_rax as i64;
        if call < 0 {
            return SyscallReturn::None;
        }
        if regs.rax != INTERRUPTED || !WITHOUT_EFFECT.contains(&call) {
            return SyscallReturn::Normal;
        }
        regs.rax = RESTARTS;
        SyscallReturn::Changed
    }
}

/// The code to which a signal handler returns: `mov rax, 15; syscall`, and the same with `eax`.
const SIGNAL_RETURNS: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05], &[0xb8, 15, 0, 0, 0, 0x0f, 0x05]];

/// The number of bytes of code that [`is_signal_return`] needs.
pub(crate) const SIGNAL_RETURN: usize = 9;

/// Returns whether code is that to which a signal handler returns.
pub(crate) fn is_signal_return(code: &[u8; SIGNAL_RETURN]) -> bool {
    SIGNAL_RETURNS.iter().any(|known| code.starts_with(known))
}

/// Returns the registers of a function that a signal has interrupted. `word` reads the stack, and
/// `sp` is the stack pointer where the handler returns: the `ucontext_t` is there.
pub(crate) fn interrupted(sp: u64, word: impl Fn(u64) -> Option<u64>) -> Option<Regs> {
    // The flags, the link and the signal stack come before the registers.
    let start = sp.checked_add(40)?;
    let register = |index: u64| word(start.checked_add(8 * index)?);
    let [r12, r13, r14, r15] = [register(4)?, register(5)?, register(6)?, register(7)?];
    let [fp, rbx, sp, ip] = [register(10)?, register(11)?, register(15)?, register(16)?];
    Some(Regs::new(sp, [ip, rbx, r12, r13, r14, r15, fp]))
}

/// Copies bytes in assembly, outside of the language's memory model.
///
/// # Safety
///
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller guarantees it; the direction flag is clear by the calling convention.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Returns whether the code before a return address is a call: a direct one (`e8`), or an indirect
/// one (`ff /2`) of any length.
fn follows_call(before: &[u8]) -> bool {
    let n = before.len();
    let at = |back: usize| before.get(n.wrapping_sub(back)).copied();
    if at(5) == Some(0xe8) {
        return true;
    }
    (2..=8).any(|back| at(back) == Some(0xff) && at(back - 1).is_some_and(|modrm| modrm & 0x38 == 0x10))
}

/// Returns what the call before a return address calls; `None` if no call is there. `before` is the
/// code that ends at the address. The target of an indirect call is not known.
pub(crate) fn called(before: &[u8; 8], return_address: u64) -> Option<Option<u64>> {
    if !follows_call(before) {
        return None;
    }
    let [_, _, _, 0xe8, a, b, c, d] = *before else { return Some(None) };
    Some(Some(return_address.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])))))
}

/// Returns the address that a word of the stack means as a return address.
pub(crate) fn return_address(word: u64) -> u64 {
    word
}

/// Returns how far below its frame pointer a function's stack pointer is in its body.
///
/// It is decoded from the function's first instructions: `push rbp; mov rbp, rsp`, further pushes,
/// and subtractions. `None` when the function keeps no frame pointer, or aligns its stack at run
/// time.
pub(crate) fn frame_size(code: &[u8]) -> Option<u64> {
    let mut code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    code = code.strip_prefix(&[0x55])?;
    code = code.strip_prefix(&[0x48, 0x89, 0xe5]).or_else(|| code.strip_prefix(&[0x48, 0x8b, 0xec]))?;
    let mut size = 0u64;
    loop {
        code = match code {
            [0x50..=0x57, rest @ ..] => {
                size += 8;
                rest
            }
            [0x41, 0x50..=0x57, rest @ ..] => {
                size += 8;
                rest
            }
            // sub rsp, imm8
            [0x48, 0x83, 0xec, imm, rest @ ..] => {
                size += u64::try_from(*imm as i8).ok()?;
                // A stack probe (`mov qword ptr [rsp], 0`) follows each page of a large frame.
                rest.strip_prefix(&PROBE).unwrap_or(rest)
            }
            // sub rsp, imm32
            [0x48, 0x81, 0xec, a, b, c, d, rest @ ..] => {
                size += u64::try_from(i32::from_le_bytes([*a, *b, *c, *d])).ok()?;
                rest.strip_prefix(&PROBE).unwrap_or(rest)
            }
            // lea r11, [rsp - imm32]: a probing loop down to there follows
            [0x4c, 0x8d, 0x9c, 0x24, a, b, c, d, rest @ ..] => {
                size += u64::try_from(-i64::from(i32::from_le_bytes([*a, *b, *c, *d]))).ok()?;
                rest.strip_prefix(&LOOP)?
            }
            // and rsp, ...: aligned at run time
            [0x48, 0x83, 0xe4, ..] | [0x48, 0x81, 0xe4, ..] => return None,
            _ => return Some(size),
        };
    }
}

/// A stack probe: `mov qword ptr [rsp], 0`.
const PROBE: [u8; 8] = [0x48, 0xc7, 0x04, 0x24, 0, 0, 0, 0];
/// A loop of probes: `sub rsp, 0x1000; mov qword ptr [rsp], 0; cmp rsp, r11; jne` to the `sub`.
const LOOP: [u8; 20] =
    [0x48, 0x81, 0xec, 0x00, 0x10, 0, 0, 0x48, 0xc7, 0x04, 0x24, 0, 0, 0, 0, 0x4c, 0x39, 0xdc, 0x75, 0xec];

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn interrupted_calls_start_again() {
        // SAFETY: registers are integers, for which zero is valid.
        let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        (regs.orig_rax, regs.rax) = (u64::MAX, -4i64 as u64);
        assert_eq!(SyscallReturn::of(&mut regs), SyscallReturn::None);
        regs.orig_rax = libc::SYS_epoll_wait as u64;
        assert_eq!((SyscallReturn::of(&mut regs), regs.rax), (SyscallReturn::Changed, -514i64 as u64));
        assert_eq!(SyscallReturn::of(&mut regs), SyscallReturn::Normal, "once");
        (regs.orig_rax, regs.rax) = (libc::SYS_write as u64, -4i64 as u64);
        assert_eq!(SyscallReturn::of(&mut regs), SyscallReturn::Changed, "as with SO_SNDTIMEO");
        (regs.orig_rax, regs.rax) = (libc::SYS_close as u64, -4i64 as u64);
        assert_eq!(SyscallReturn::of(&mut regs), SyscallReturn::Normal, "the descriptor is closed");
    }

    #[test]
    fn frame_sizes_are_decoded() {
        let plain = [0x55, 0x48, 0x89, 0xe5, 0x41, 0x57, 0x53, 0x50, 0x48, 0x83, 0xec, 0x18, 0x90];
        assert_eq!(frame_size(&plain), Some(8 * 3 + 0x18));
        let large = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x81, 0xec, 0x00, 0x02, 0x00, 0x00, 0x31, 0xc0];
        assert_eq!(frame_size(&large), Some(0x200));
        assert_eq!(frame_size(&[0x53, 0x48, 0x83, 0xec, 0x10]), None, "no frame pointer");
        assert_eq!(frame_size(&[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xe0]), None, "aligned at run time");
        let mut probed = vec![0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5];
        probed.extend([0x4c, 0x8d, 0x9c, 0x24, 0x00, 0xc0, 0xff, 0xff]);
        probed.extend(LOOP);
        probed.extend([0x48, 0x83, 0xec, 0x20, 0xc3]);
        assert_eq!(frame_size(&probed), Some(0x4000 + 0x20));
        assert_eq!(frame_size(&[]), None);
    }

    #[test]
    fn calls_before_a_return_address_are_recognised() {
        assert!(follows_call(&[0xe8, 1, 2, 3, 4]));
        assert!(follows_call(&[0x90, 0xff, 0xd0]), "call rax");
        assert!(follows_call(&[0xff, 0x15, 1, 2, 3, 4]), "call [rip + x]");
        assert!(follows_call(&[0x41, 0xff, 0x54, 0x24, 0x18]), "call [r12 + 0x18]");
        assert!(!follows_call(&[0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90]));
        assert!(!follows_call(&[]));
    }
}
