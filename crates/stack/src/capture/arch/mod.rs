//! Code that depends on the processor: the registers, and the recovery of registers from the stack
//! pointer of a system call.

#[cfg(any(target_arch = "aarch64", all(test, not(pollwatch_loom))))]
pub(crate) mod a64;
#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;
