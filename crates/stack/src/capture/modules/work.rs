//! The work that an entry of a table of another process asks for.
//!
//! Whoever runs in another process has written its unwind tables, and may have done so to make the
//! reader loop. `framehop` bounds neither the length of an entry nor the loops of its expressions.

use addr2line::gimli::{
    BaseAddresses, CallFrameInstruction, CallFrameInstructionIter, EhFrame, EhFrameHdr, Encoding, EndianSlice,
    LittleEndian, Operation, UnwindSection,
};

use super::LoadedModule;

type ForeignBytes<'a> = EndianSlice<'a, LittleEndian>;

/// The size of a pointer in the tables.
const POINTER: u8 = 8;

/// The cost of a frame beside that of its entry, in bytes. Some frames have no entry.
const FRAME_COST: usize = 128;

/// The bytes of call frame instructions that may be interpreted for one stack. An entry has some 20
/// to 100 of them, and a stack 16,384 frames at most. The frames of all attempts to find a frame
/// pointer count, each with [`FRAME_COST`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnwindWork(usize);

/// The reason why an entry is not interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An expression jumps. Compilers and assemblers write none that does. Without jumps, an
    /// expression takes as many steps as it has operations.
    Jump,
    /// The table names an entry that cannot be parsed.
    Malformed,
    /// The stack has taken as much work as one may.
    OverBudget,
}

impl UnwindWork {
    /// The work for one stack.
    pub(crate) const LIMIT: UnwindWork = UnwindWork(16 << 20);

    /// Takes a frame out of the work that is left.
    pub(crate) fn take_frame(&mut self) -> Result<(), Refusal> {
        self.0 = self.0.checked_sub(FRAME_COST).ok_or(Refusal::OverBudget)?;
        Ok(())
    }

    /// Checks the entry that `framehop` will interpret for an address, and takes its length out of
    /// the work that is left.
    pub(crate) fn admit(&mut self, module: &LoadedModule, address: u64) -> Result<(), Refusal> {
        let LoadedModule { header, frames, base, code, .. } = module;
        let file = |address: u64| address.wrapping_sub(*base);
        // The same bases as those of `framehop`, so that no entry escapes the check.
        let bases = BaseAddresses::default()
            .set_got(0)
            .set_eh_frame(file(frames.at))
            .set_eh_frame_hdr(file(header.at))
            .set_text(code.first().map_or(0, |code| file(code.start)));
        let mut section = EhFrame::new(&frames.bytes, LittleEndian);
        section.set_address_size(POINTER);
        // The entry is found in the same way as `framehop` finds it.
        let find = || {
            let address = u32::try_from(address.checked_sub(*base)?).ok()?;
            let header = EhFrameHdr::new(&header.bytes, LittleEndian).parse(&bases, POINTER).ok()?;
            let table = header.table()?;
            table.pointer_to_offset(table.lookup(address.into(), &bases).ok()?).ok()
        };
        // Where there is none, none will be interpreted.
        let Some(at) = find() else { return Ok(()) };
        let entry = section.fde_from_offset(&bases, at, EhFrame::cie_from_offset).map_err(|_| Refusal::Malformed)?;
        let len = entry.entry_len().saturating_add(entry.cie().entry_len());
        self.0 = self.0.checked_sub(len).ok_or(Refusal::OverBudget)?;
        let encoding = entry.cie().encoding();
        check(&section, encoding, entry.cie().instructions(&section, &bases))?;
        check(&section, encoding, entry.instructions(&section, &bases))
    }
}

/// Checks the expressions of an entry. What cannot be read ends the interpretation as well.
fn check(
    section: &EhFrame<ForeignBytes<'_>>,
    encoding: Encoding,
    mut instructions: CallFrameInstructionIter<'_, ForeignBytes<'_>>,
) -> Result<(), Refusal> {
    while let Ok(Some(instruction)) = instructions.next() {
        let (CallFrameInstruction::DefCfaExpression { expression }
        | CallFrameInstruction::Expression { expression, .. }
        | CallFrameInstruction::ValExpression { expression, .. }) = instruction
        else {
            continue;
        };
        let Ok(expression) = expression.get(section) else { continue };
        let mut operations = expression.operations(encoding);
        while let Ok(Some(operation)) = operations.next() {
            if matches!(operation, Operation::Bra { .. } | Operation::Skip { .. }) {
                return Err(Refusal::Jump);
            }
        }
    }
    Ok(())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::super::arch::{self, Regs};
    use super::super::super::unwind::{Source, StackCopy, unwind};
    use super::super::{Modules, Table};
    use super::*;

    const BASE: u64 = 0x10_0000;
    const FRAMES: u64 = BASE + 0x8000;

    /// Pointers of 4 bytes, relative to themselves or to the start of the data, which is 0.
    const PC_RELATIVE: u8 = 0x1b;
    const DATA_RELATIVE: u8 = 0x3b;

    /// The registers of the stack pointer and of the return address, and the size of a frame.
    const SP: u8 = if cfg!(target_arch = "x86_64") { 7 } else { 31 };
    const RETURN: u8 = if cfg!(target_arch = "x86_64") { 16 } else { 30 };
    const FRAME: u8 = if cfg!(target_arch = "x86_64") { 8 } else { 16 };

    /// Returns a library of another process with one function, the entry of which has these call
    /// frame instructions.
    fn library(instructions: &[u8]) -> Modules {
        library_of(PC_RELATIVE, instructions)
    }

    /// Returns such a library, with the encoding of the pointers of its entries.
    fn library_of(encoding: u8, instructions: &[u8]) -> Modules {
        let start = [1, b'z', b'R', 0, 1, 0x78, RETURN, 1, encoding, 0x0c, SP, FRAME, 0x80 | RETURN, 1];
        let cie = [&[0; 4][..], &start].concat();
        let mut frames = Vec::new();
        frames.extend((cie.len() as u32).to_le_bytes());
        frames.extend(cie);
        let at = frames.len() as u64;
        let function = if encoding == PC_RELATIVE { BASE.wrapping_sub(FRAMES + at + 8) } else { 0 };
        let function = (function as u32).to_le_bytes();
        let body =
            [&(at as u32 + 4).to_le_bytes(), &function, &0x100u32.to_le_bytes(), &[0][..], instructions].concat();
        frames.extend((body.len() as u32).to_le_bytes());
        frames.extend(body);
        frames.extend([0; 4]);
        let header_at = BASE + 0x7000;
        let words = [FRAMES - (header_at + 4), 1, BASE.wrapping_sub(header_at), FRAMES + at - header_at];
        let words = words.map(|word| (word as u32).to_le_bytes()).concat();
        let header = Table { at: header_at, bytes: [&[1, 0x1b, 0x03, 0x3b], &words[..]].concat().into() };
        let frames = Table { at: FRAMES, bytes: frames.into() };
        Modules::of_another_process().with_library(BASE..BASE + 0x10000, header, frames)
    }

    /// Returns the number of frames of a stack whose words are all addresses of the function.
    fn frames(modules: &Modules) -> usize {
        let bytes = (BASE + 8).to_le_bytes().repeat(64);
        let stack = StackCopy { start: 0x7000_0000, bytes: &bytes };
        let mut regs = [arch::UNKNOWN; arch::REGS];
        regs[0] = BASE + 8;
        let source = Source { modules, stack, code: &|_, _| false };
        unwind(&source, Regs::new(stack.start, regs)).addresses.len()
    }

    #[test]
    fn an_expression_that_loops_is_not_evaluated() {
        // The first jumps to itself. The second does so where a constant was pushed. The third is
        // hidden in a constant, to which a jump forward leads.
        let (skip, branch) = ([0x2f, 0xfd, 0xff], [0x31, 0x28, 0xfc, 0xff]);
        let hidden = [0x2f, 1, 0, 0x0c, 0x2f, 0xfd, 0xff, 0];
        // The address from which on an instruction is valid is such a pointer, too.
        let (set_location, nothing) = ([1, 0, 0, 0, 0], []);
        for expression in [&skip[..], &branch, &hidden] {
            let len = expression.len() as u8;
            for start in [&[0x0f, len][..], &[0x16, RETURN, len], &[0x10, RETURN, len]] {
                assert_ends(PC_RELATIVE, &[start, expression].concat());
                for before in [&nothing[..], &set_location] {
                    assert_ends(DATA_RELATIVE, &[before, start, expression].concat());
                }
            }
        }
        // The stack pointer, as an expression without a jump.
        assert!(frames(&library(&[0x0f, 2, 0x70 + SP, FRAME])) > 1, "other expressions are evaluated");
        for encoding in [PC_RELATIVE, DATA_RELATIVE] {
            assert!(frames(&library_of(encoding, &[])) > 1);
        }
    }

    /// Checks that a stack ends at once in a library with these call frame instructions.
    fn assert_ends(encoding: u8, instructions: &[u8]) {
        let (send, receive) = mpsc::channel();
        let text = format!("{encoding:x} {instructions:x?}");
        let modules = library_of(encoding, instructions);
        std::thread::spawn(move || send.send(frames(&modules)).unwrap());
        assert_eq!(receive.recv_timeout(Duration::from_secs(20)), Ok(1), "{text}");
    }

    /// Some augmentations cannot be parsed, and nothing says what they mean.
    #[test]
    fn an_entry_that_cannot_be_parsed_is_not_used() {
        const ALIGNED: u8 = 0x50;
        assert_ends(ALIGNED, &[]);
    }

    #[test]
    fn long_entries_end_the_stack_early() {
        let long = library(&vec![0; 1 << 20]);
        let UnwindWork(limit) = UnwindWork::LIMIT;
        let frames = frames(&long);
        assert!((2..=limit / (1 << 20) + 1).contains(&frames), "{frames}");
    }
}
