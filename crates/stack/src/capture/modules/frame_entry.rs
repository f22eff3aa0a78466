//! The entry of `.eh_frame` for one function: where it keeps the registers of its caller, and what
//! it cleans up when it unwinds.

use std::ops::Range;

use addr2line::gimli::{
    BaseAddresses, EhFrame, EhFrameOffset, EndianSlice, FrameDescriptionEntry, LittleEndian, Pointer,
    Register as DwarfRegister, RegisterRule, UnwindContext, UnwindSection,
};

use super::super::unwind::ReadCode;
use super::Table;
use super::call_sites::{CallSites, UnusualTable};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// The entry of one function.
pub(crate) struct FrameEntry<'a> {
    section: EhFrame<Bytes<'a>>,
    bases: BaseAddresses,
    entry: FrameDescriptionEntry<Bytes<'a>>,
}

/// The distance from a frame's canonical address at which a register of the caller is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SavedRegister {
    /// The function has not changed the register.
    Unchanged,
    At(i64),
    Unknown,
}

impl<'a> FrameEntry<'a> {
    /// Parses the entry at the address `at` of a table.
    pub(super) fn parse(table: &'a Table, at: u64) -> Option<FrameEntry<'a>> {
        let section = EhFrame::new(&table.bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(table.at);
        let offset = EhFrameOffset(usize::try_from(at.checked_sub(table.at)?).ok()?);
        let entry = section.fde_from_offset(&bases, offset, EhFrame::cie_from_offset).ok()?;
        Some(FrameEntry { section, bases, entry })
    }

    pub(crate) fn function(&self) -> Range<u64> {
        self.entry.initial_address()..self.entry.end_address()
    }

    /// Returns what the function cleans up at each call; `None` if it cleans up nothing.
    pub(crate) fn call_sites(&self, read: ReadCode<'_>) -> Result<Option<CallSites>, UnusualTable> {
        match self.entry.lsda() {
            None | Some(Pointer::Direct(0)) => Ok(None),
            Some(Pointer::Direct(table)) => CallSites::read(self.function().start, table, read).map(Some),
            Some(Pointer::Indirect(_)) => Err(UnusualTable),
        }
    }

    /// Returns the address of the function that interprets the table of what is cleaned up, or of
    /// the word that contains that address.
    pub(crate) fn personality(&self) -> Option<u64> {
        self.entry.cie().personality().map(|personality| match personality {
            Pointer::Direct(address) | Pointer::Indirect(address) => address,
        })
    }

    /// Returns where the function keeps registers of its caller at an address. They have the
    /// numbers of the platform's ABI.
    pub(crate) fn saved_registers<const N: usize>(&self, address: u64, registers: [u16; N]) -> [SavedRegister; N] {
        let mut context = UnwindContext::new();
        let row = self.entry.unwind_info_for_address(&self.section, &self.bases, &mut context, address);
        let Ok(row) = row else { return [SavedRegister::Unknown; N] };
        registers.map(|register| match row.register(DwarfRegister(register)) {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => SavedRegister::Unchanged,
            Some(RegisterRule::Offset(offset)) => SavedRegister::At(offset),
            _ => SavedRegister::Unknown,
        })
    }
}
