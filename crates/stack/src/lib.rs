//! The stacks of other threads, of this process or another one, unwound and symbolized away from
//! them.
//!
//! ```
//! use pollwatch_stack::{Capturer, Symbolizer, Target};
//! use std::sync::mpsc;
//!
//! let (send, receive) = mpsc::channel();
//! std::thread::spawn(move || {
//!     send.send(Target::current()).unwrap(); // only the thread itself can make its target
//!     std::thread::sleep(std::time::Duration::from_secs(60));
//! });
//! if let Some(target) = receive.recv()? {
//!     match Capturer::new().capture(target) {
//!         Ok(raw) => println!("{:#}", Symbolizer::shared().symbolize(&raw)),
//!         Err(error) => println!("no stack: {error}"),
//!     }
//! }
//! # Ok::<(), mpsc::RecvError>(())
//! ```
//!
//! # How it works
//!
//! 1. **Copy.** A thread that waits in a system call is read from outside. The kernel gives its
//!    stack pointer (`/proc/self/task/<tid>/syscall`) and its memory (`process_vm_readv`). The
//!    thread is not disturbed, and none of its system calls fails with `EINTR`. A running thread
//!    gets `SIGURG`. The handler copies registers and stack into a buffer that was allocated
//!    before, and returns. A thread that computes in a system call handles the signal when the call
//!    returns; [`Capturer::capture_or_wait`] does not wait for that.
//! 2. **Unwind.** The calling thread unwinds the copy by the call frame information of the loaded
//!    modules (`.eh_frame`), which it has copied as well. Nothing is ever unwound in the handler,
//!    and the thread's own memory is not touched after the copy.
//! 3. **Symbolize.** [`Symbolizer`] turns addresses into functions, files and lines, on the thread
//!    that calls it.
//!
//! # Another process
//!
//! [`Process`] reads threads of another process in the same way, without its help. A thread that
//! waits is read by the kernel's files and `process_vm_readv`. One that runs is stopped by `ptrace`
//! for the moment in which registers and stack are copied ([`Stopper`]). Modules, unwind tables and
//! build ids come from the memory of the process, files through its own root folder.
//!
//! # Cost
//!
//! | what | who pays | how much |
//! |---|---|---|
//! | stack of a waiting thread, 20 frames | the caller | some 0.1 ms |
//! | stack of a running thread | the caller | some 0.3 ms |
//! | | that thread | one signal, and the copy of 512 KiB at most |
//! | stack of a thread without a CPU | the caller | up to 5 ms, then [`CaptureError::Timeout`] |
//! | a capture that stays pending | the caller | 1 ms, and 512 KiB of memory that is kept |
//! | stack of a running thread of another process | the caller | some 0.3 ms |
//! | | that thread | a stop of some 0.1 ms, at most 1 ms |
//! | the first capture, [`preload`] or [`Process::open`] | the caller | unwind tables are read, some milliseconds |
//! | the first symbols of a binary | the caller | up to seconds and tens of MB |
//!
//! # Limits
//!
//! - **Platforms.** Captures work on Linux with glibc on x86_64 and aarch64. Elsewhere every
//!   capture ends with [`CaptureError::Unavailable`], and [`capability`] gives the reason. On
//!   aarch64, they were run under emulation alone, and those of waiting threads little.
//! - **Blocked signals.** A running thread that blocks `SIGURG` cannot be captured. No running
//!   thread can, if a later handler of `SIGURG` does not call the earlier one. [`degradation`]
//!   reports both once they were observed. A handler that was installed *before* is called for
//!   every signal.
//! - **Processes that are not dumpable.** Without root's rights, such a process cannot read the
//!   system calls of its own threads. Threads that wait cannot be captured then.
//! - **Coroutines.** A stack that is not the thread's own is not read: [`CaptureError::Elsewhere`].
//! - **Generated code.** Code without call frame information, such as that of a JIT compiler,
//!   cannot be unwound. The stack ends there and is not complete.
//! - **Ended threads.** The kernel may give the id of a thread that has ended to a new one. The
//!   handler copies from a thread only while its stack pointer lies within the [`StackBounds`] of
//!   the [`Target`]. Drop a target when its thread ends.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `capture` (default) | stacks; without it the crate needs only `libc` and reads `/proc` |
//! | `symbols` | `SymbolFile`, which finds functions in files, on every platform; part of `capture` |
//! | `serde` | `serde::Serialize` for [`Stack`] and [`Frame`] |

mod activity;
mod address;
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod blocking;
mod capability;
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod capture;
#[cfg(not(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
#[path = "capture_off.rs"]
mod capture;
mod error;
mod frame;
mod lock;
mod module;
#[cfg(feature = "symbols")]
mod panics;
pub mod paths;
#[cfg(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod process;
#[cfg(not(all(
    feature = "capture",
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
#[path = "process_off.rs"]
mod process;
pub mod procfs;
#[cfg(all(test, not(pollwatch_loom), feature = "capture", target_os = "linux"))]
mod random;
mod stack;
#[cfg(feature = "symbols")]
mod symbols;
mod thread;

pub use activity::Activity;
pub use address::Address;
pub use capability::Capability;
#[doc(hidden)]
pub use capture::hold_unwind_tables;
pub use capture::{
    Capture, Capturer, PendingCapture, RawStack, Symbolizer, capability, degradation, find_functions, is_preloaded,
    preload,
};
pub use capture::{LockSearch, ModuleFunctions, ThreadLocks};
pub use error::CaptureError;
pub use frame::Frame;
pub use lock::{Holding, LockKind, LockRef};
pub use module::{BuildId, InvalidBuildId, Module};
pub use process::{Denial, Process, ProcessChange, ProcessError, ReadLosses};
pub use process::{StopBudget, StopError, StopStats, StoppedStack, Stopper};
pub use stack::Stack;
#[cfg(feature = "symbols")]
pub use symbols::{SymbolFile, SymbolFileError};
pub use thread::{CpuModes, Pid, StackBounds, Target, Tid};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
