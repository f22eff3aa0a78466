use std::fmt;

/// An address in the memory of the process. It is displayed in hexadecimal.
///
/// ```
/// use pollwatch_stack::Address;
///
/// assert_eq!(Address::new(4096).to_string(), "0x1000");
/// assert_eq!(Address::new(4096).get(), 4096);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address(u64);

impl Address {
    /// Wraps an address.
    pub const fn new(address: u64) -> Address {
        Address(address)
    }

    /// Returns the address of a value.
    ///
    /// ```
    /// let value = 1u8;
    /// assert_eq!(pollwatch_stack::Address::of(&value).get(), &raw const value as u64);
    /// ```
    pub fn of<T: ?Sized>(value: &T) -> Address {
        Address((&raw const *value).cast::<()>() as u64)
    }

    /// Returns the address as an integer.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
