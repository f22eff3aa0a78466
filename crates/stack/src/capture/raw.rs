use std::fmt;
use std::sync::Arc;

use super::modules::Modules;
use super::unwind::Chain;
use crate::{Address, Frame};

/// A captured stack: addresses, and the modules that they lie in.
///
/// It is cheap to clone and to send to another thread. [`Symbolizer`](crate::Symbolizer) turns it
/// into functions and lines.
///
/// ```
/// use pollwatch_stack::{Capturer, Target};
///
/// fn print_addresses(target: Target) {
///     let Ok(raw) = Capturer::new().capture(target) else { return };
///     raw.addresses().for_each(|address| println!("{address}"));
///     if !raw.is_complete() {
///         println!("(incomplete)");
///     }
/// }
/// ```
#[derive(Clone)]
pub struct RawStack {
    pub(super) chain: Chain,
    pub(super) modules: Arc<Modules>,
    /// The function that recognises the boundary between a runtime and the user's code.
    pub(super) boundary: Option<fn(&Frame) -> bool>,
}

impl RawStack {
    /// Returns the addresses, innermost first: the instruction pointer, then the last byte of each
    /// call instruction.
    pub fn addresses(&self) -> impl DoubleEndedIterator<Item = Address> + ExactSizeIterator {
        self.chain.addresses.iter().map(|&address| Address::new(address))
    }

    /// Returns whether the stack reaches the thread's first function. If not, its outer part is
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
