//! Return addresses that are on the stack at each call, so that none has to be searched for.

use framehop::FrameAddress;

use super::arch::Regs;
use super::unwind::{Chain, Progress, Source};

/// Returns false: each return address is read from the stack.
pub(super) fn is_unknown(_return_address: u64) -> bool {
    false
}

/// Recovers nothing.
pub(super) fn recover(_: &Source<'_>, _: Regs, _: FrameAddress, _: &mut Progress, _: &mut Chain) {}
