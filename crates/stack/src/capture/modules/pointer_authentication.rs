//! Entries of `.eh_frame` that say from where on a return address is signed (aarch64).
//!
//! `framehop` parses no entry with such an instruction, which nearly each function of a
//! distribution's C library has. Signatures are removed from all return addresses, so the
//! instructions are replaced by ones without an effect in the copied table.

use std::collections::HashMap;

/// `DW_CFA_AARCH64_negate_ra_state` and its successor, `.._with_pc`.
const SIGNED: [u8; 2] = [0x2d, 0x2c];
/// `DW_CFA_nop`.
const NOTHING: u8 = 0;
/// The size of an address without an encoding.
const POINTER: usize = 8;

/// Replaces the instructions in all entries of a table. Entries that cannot be parsed are left as
/// they are from there on.
pub(super) fn ignore(table: &mut [u8]) {
    // The encodings that the entries of functions have in common, by the offset of those.
    let mut common = HashMap::new();
    let mut at = 0;
    while let Some(length) = word(table, at).filter(|&length| length != 0 && length != u32::MAX) {
        let start = at + 4;
        let Some(end) = start.checked_add(length as usize).filter(|&end| end <= table.len()) else { return };
        if let Some((first, size)) = instructions(&table[..end], start, &mut common) {
            ignore_in(&mut table[first..end], size);
        }
        at = end;
    }
}

/// What the entries of some functions have in common.
#[derive(Clone, Copy)]
struct Common {
    /// The size of their addresses.
    address: usize,
    /// Each has a part whose length is written before it.
    has_augmentation: bool,
}

/// Returns the offset of an entry's first instruction, and the size of its addresses.
fn instructions(table: &[u8], start: usize, common: &mut HashMap<usize, Common>) -> Option<(usize, usize)> {
    let (id, mut at) = (word(table, start)? as usize, start + 4);
    if id != 0 {
        let Common { address, has_augmentation } = *common.get(&start.checked_sub(id)?)?;
        at += 2 * address;
        if has_augmentation {
            let len = number(table, &mut at)?;
            at = at.checked_add(len)?;
        }
        return Some((at, address)).filter(|_| at <= table.len());
    }
    let version = byte(table, &mut at)?;
    let end = at + table.get(at..)?.iter().position(|&byte| byte == 0)?;
    let augmentation = &table[at..end];
    at = end + 1;
    number(table, &mut at)?;
    number(table, &mut at)?;
    if version == 1 {
        byte(table, &mut at)?;
    } else {
        number(table, &mut at)?;
    }
    let mut address = POINTER;
    let has_augmentation = augmentation.first() == Some(&b'z');
    if has_augmentation {
        let len = number(table, &mut at)?;
        let first = at.checked_add(len).filter(|&first| first <= table.len())?;
        for &letter in &augmentation[1..] {
            match letter {
                b'R' => address = size(byte(table, &mut at)?)?,
                b'L' => at += 1,
                b'P' => at += size(byte(table, &mut at)?)?,
                _ => {}
            }
        }
        at = first;
    } else if !augmentation.is_empty() {
        return None;
    }
    common.insert(start - 4, Common { address, has_augmentation });
    Some((at, address))
}

/// Replaces the instructions of one entry.
fn ignore_in(code: &mut [u8], address: usize) -> Option<()> {
    let mut at = 0;
    while at < code.len() {
        let instruction = code[at];
        if SIGNED.contains(&instruction) {
            code[at] = NOTHING;
        }
        at += 1;
        let numbers = match instruction {
            0x40..=0x7f | 0xc0.. | 0x00 | 0x0a | 0x0b | 0x2c | 0x2d => 0,
            0x80..=0xbf | 0x06..=0x08 | 0x0d | 0x0e | 0x13 | 0x2e => 1,
            0x05 | 0x09 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 => 2,
            0x01..=0x04 => {
                at += [address, 1, 2, 4][usize::from(instruction) - 1];
                0
            }
            0x0f | 0x10 | 0x16 => {
                if instruction != 0x0f {
                    number(code, &mut at)?;
                }
                let len = number(code, &mut at)?;
                at = at.checked_add(len)?;
                0
            }
            _ => return None,
        };
        for _ in 0..numbers {
            number(code, &mut at)?;
        }
    }
    Some(())
}

/// Returns the size of an address with an encoding; `None` if it is of variable length.
fn size(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x00 => Some(POINTER),
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        0x04 | 0x0c => Some(8),
        _ => None,
    }
}

fn word(table: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(table.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn byte(table: &[u8], at: &mut usize) -> Option<u8> {
    let byte = *table.get(*at)?;
    *at += 1;
    Some(byte)
}

/// Reads a number of variable length (LEB128). A signed one that is negative reads as a large one.
fn number(table: &[u8], at: &mut usize) -> Option<usize> {
    let (mut value, mut shift) = (0usize, 0u32);
    loop {
        let byte = byte(table, at)?;
        value |= usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        shift = shift.saturating_add(7);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::super::Modules;
    use super::*;

    fn entry(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_le_bytes(), body].concat()
    }

    /// A table with one function, whose entry has these instructions.
    fn table(instructions: &[u8]) -> Vec<u8> {
        let common = entry(&[&[0; 4][..], &[1, b'z', b'R', 0, 1, 0x78, 30, 1, 0x1b, 0x0c, 31, 0]].concat());
        let id = common.len() as u32 + 4;
        let addresses = [0x2d; 8];
        let function = entry(&[&id.to_le_bytes(), &addresses[..], &[0], instructions].concat());
        [common, function, vec![0; 4]].concat()
    }

    #[test]
    fn only_instructions_are_replaced() {
        // advance 4; sign; CFA is sp + 45; x29 at -45 words; an expression of two bytes; CFA + 45
        let before = [0x44, 0x2d, 0x0c, 31, 0x2d, 0x9d, 0x2d, 0x10, 0x2d, 2, 0x2d, 0x2d, 0x0e, 0x2d, 0x02, 0x2d, 0x2d];
        let mut after = before;
        (after[1], after[16]) = (0, 0);
        let mut patched = table(&before);
        ignore(&mut patched);
        assert_eq!(patched, table(&after));
    }

    #[test]
    fn tables_of_compilers_can_be_parsed() {
        for module in &Modules::current().list {
            let mut copy = module.frames.bytes.to_vec();
            ignore(&mut copy);
            // On x86_64 no instruction has these codes but one that compilers do not write.
            assert!(cfg!(target_arch = "aarch64") || copy == *module.frames.bytes, "{}", module.path.display());
        }
    }

    #[test]
    fn damaged_tables_are_survived() {
        let whole = table(&[0x44, 0x2d, 0x0c, 31, 0x2d]);
        for end in 0..whole.len() {
            ignore(&mut whole[..end].to_vec());
            let mut damaged = whole.clone();
            for value in [0, 1, 0x2d, 0x7f, 0x80, 0xff] {
                damaged[end] = value;
                ignore(&mut damaged.clone());
            }
        }
    }
}
