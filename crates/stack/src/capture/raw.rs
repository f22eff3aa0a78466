use std::fmt;
use std::sync::Arc;

use super::modules::Modules;
use super::unwind::Chain;
use crate::{Address, Frame};

/// A stack as addresses, with the modules that they lie in: what a capture returns.
///
/// It is cheap to clone and to send elsewhere; [`Symbolizer`](crate::Symbolizer) turns it into
/// functions and lines when somebody wants to read it.
#[derive(Clone)]
pub struct RawStack {
    pub(super) chain: Chain,
    pub(super) modules: Arc<Modules>,
    /// What recognises the functions by which a runtime calls the user's code.
    pub(super) boundary: Option<fn(&Frame) -> bool>,
}

impl RawStack {
    /// Returns the addresses, innermost first: the instruction pointer, then the last byte of each
    /// call instruction.
    pub fn addresses(&self) -> impl DoubleEndedIterator<Item = Address> + ExactSizeIterator {
        self.chain.addresses.iter().map(|&address| Address::new(address))
    }

    /// Returns whether the stack reaches the thread's first function; else its outer part is
    /// missing.
    pub fn is_complete(&self) -> bool {
        self.chain.complete
    }
}

impl fmt::Debug for RawStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let complete = &self.chain.complete;
        f.debug_struct("RawStack").field("addresses", &self.chain.addresses).field("complete", complete).finish()
    }
}
