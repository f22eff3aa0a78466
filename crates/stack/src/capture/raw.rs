use std::fmt;
use std::sync::Arc;

use super::guard::catches_panic;
use super::modules::{Modules, ObjectOwner};
use super::unwind::Chain;
use crate::{Address, Frame, Stack};

/// The numbers of innermost and of outermost calls of a stack that are symbolized. A recursion may
/// have thousands.
pub(super) const INNERMOST: usize = 256;
const OUTERMOST: usize = 128;

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
    pub(crate) chain: Chain,
    pub(crate) modules: Arc<Modules>,
    /// The function that recognises the boundary between a runtime and the user's code.
    pub(crate) boundary: Option<fn(&Frame) -> bool>,
}

impl RawStack {
    /// Returns the addresses, innermost first: the instruction pointer, then the last byte of each
    /// call instruction. A function that a signal has interrupted is in no call. Its address is
    /// that of the instruction that runs next.
    pub fn addresses(&self) -> impl DoubleEndedIterator<Item = Address> + ExactSizeIterator {
        self.chain.addresses.iter().map(|&address| Address::new(address))
    }

    /// Returns whether the stack reaches the thread's first function. If not, its outer part is
    /// missing.
    pub fn is_complete(&self) -> bool {
        self.chain.complete
    }

    /// Returns the stack as modules and offsets. No file is read, so no function has a name.
    ///
    /// `pollwatch symbolize` and `SymbolFile` turn it into functions later, from files.
    ///
    /// ```
    /// use pollwatch_stack::{Capturer, Target};
    ///
    /// fn print_offsets(target: Target) {
    ///     let Ok(raw) = Capturer::new().capture(target) else { return };
    ///     println!("{:#}", raw.without_symbols());
    /// }
    /// ```
    pub fn without_symbols(&self) -> Stack {
        stack(self, |address| unknown(&self.modules, address))
    }
}

impl fmt::Debug for RawStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let complete = &self.chain.complete;
        f.debug_struct("RawStack").field("addresses", &self.chain.addresses).field("complete", complete).finish()
    }
}

/// Returns an address as one frame with module and offset.
pub(super) fn unknown(modules: &Modules, address: u64) -> Arc<[Frame]> {
    let in_memory = Address::new(address);
    let Some(module) = modules.find(address) else {
        return [Frame { address: in_memory, ..Frame::default() }].into();
    };
    // The program is the executable, and the library that contains this crate (a plugin, an
    // extension module).
    let has_this_crate = || module.range.contains(&(unknown as *const () as u64));
    let in_program = module.files.is_program || (module.files.owner == ObjectOwner::Own && has_this_crate());
    let frame = Frame {
        address: in_memory,
        module: Some(module.info.name()),
        module_info: Some(module.info.clone()),
        offset: address.wrapping_sub(module.base),
        library: !in_program,
        ..Frame::default()
    };
    [frame].into()
}

/// Makes a stack of the frames of each address. In the middle of a stack of more than 384 calls,
/// one frame says how many were omitted.
pub(super) fn stack(raw: &RawStack, mut look_up: impl FnMut(u64) -> Arc<[Frame]>) -> Stack {
    let all = &raw.chain.addresses;
    let omitted = all.len().saturating_sub(INNERMOST + OUTERMOST);
    let (inner, outer) =
        if omitted > 0 { (&all[..INNERMOST], &all[INNERMOST + omitted..]) } else { (&all[..], &[][..]) };
    let mut frames = Vec::new();
    // A malformed table may make the reader panic. Then the stack ends there.
    let panicked = catches_panic(|| {
        inner.iter().for_each(|&address| frames.extend_from_slice(&look_up(address)));
        if omitted > 0 {
            let function = Some(format!("[{omitted} more calls]").into());
            frames.push(Frame { function, library: true, ..Frame::default() });
        }
        outer.iter().for_each(|&address| frames.extend_from_slice(&look_up(address)));
    });
    // Where functions have names, code without one is the linker's: a stub that leads to a library.
    if frames.iter().any(|frame| !frame.library && frame.function.is_some()) {
        frames.iter_mut().filter(|frame| frame.function.is_none()).for_each(|frame| frame.library = true);
    }
    let is_boundary = |frame: &Frame| raw.boundary.is_some_and(|is_boundary| is_boundary(frame));
    Stack::new(frames, raw.chain.complete && !panicked, is_boundary)
}
