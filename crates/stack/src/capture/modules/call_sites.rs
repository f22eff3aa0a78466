//! The tables that say what a panic cleans up at each call of a function (`.gcc_except_table`, also
//! called the language-specific data area). Their format is that of the Itanium C++ ABI for
//! exceptions, which Rust uses as well.

use std::ops::Range;

use super::super::unwind::ReadCode;

/// The encoding of a value that is left out.
const OMITTED: u8 = 0xff;
/// The encoding of numbers of variable length.
const ULEB: u8 = 0x01;
/// The most bytes of one function's table.
const MAX_TABLE: usize = 1 << 20;

/// The cleanup at one address of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleanup {
    /// A panic of the call drops nothing.
    Nothing,
    /// A panic of the call continues at this address, where the function drops its variables.
    At(u64),
    /// The table does not describe the address. The instruction there cannot panic.
    NoCall,
}

/// The entries of one function's table.
pub(crate) struct CallSites {
    list: Vec<CallSite>,
}

struct CallSite {
    range: Range<u64>,
    landing_pad: Option<u64>,
}

impl CallSites {
    /// Reads the table of a function, which is at the address `table`.
    pub(super) fn read(start: u64, table: u64, read: ReadCode<'_>) -> Result<CallSites, UnusualTable> {
        let mut head = [0; 32];
        if !read(table, &mut head) {
            return Err(UnusualTable);
        }
        let mut reader = Reader { bytes: &head, at: 0 };
        if reader.byte()? != OMITTED {
            return Err(UnusualTable);
        }
        if reader.byte()? != OMITTED {
            reader.uleb()?;
        }
        if reader.byte()? != ULEB {
            return Err(UnusualTable);
        }
        let len = usize::try_from(reader.uleb()?).ok().filter(|&len| len <= MAX_TABLE).ok_or(UnusualTable)?;
        let mut bytes = vec![0; len];
        if !read(table + reader.at as u64, &mut bytes) {
            return Err(UnusualTable);
        }
        let mut reader = Reader { bytes: &bytes, at: 0 };
        let mut list = Vec::new();
        while reader.at < bytes.len() {
            let [from, len, pad, _action] = [reader.uleb()?, reader.uleb()?, reader.uleb()?, reader.uleb()?];
            let from = start.wrapping_add(from);
            let landing_pad = (pad != 0).then(|| start.wrapping_add(pad));
            list.push(CallSite { range: from..from.wrapping_add(len), landing_pad });
        }
        Ok(CallSites { list })
    }

    /// Returns the cleanup at an address.
    pub(crate) fn at(&self, address: u64) -> Cleanup {
        match self.list.iter().find(|site| site.range.contains(&address)) {
            Some(CallSite { landing_pad: Some(at), .. }) => Cleanup::At(*at),
            Some(_) => Cleanup::Nothing,
            None => Cleanup::NoCall,
        }
    }

    /// Returns all addresses at which the function cleans up.
    pub(crate) fn landing_pads(&self) -> impl Iterator<Item = u64> {
        self.list.iter().filter_map(|site| site.landing_pad)
    }
}

/// A table of a form that no common compiler writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnusualTable;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, UnusualTable> {
        let byte = self.bytes.get(self.at).ok_or(UnusualTable)?;
        self.at += 1;
        Ok(*byte)
    }

    /// Reads a number of variable length. Signed ones are as long.
    fn uleb(&mut self) -> Result<u64, UnusualTable> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            if shift > 63 {
                return Err(UnusualTable);
            }
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }
}
