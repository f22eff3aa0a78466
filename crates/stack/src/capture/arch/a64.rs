//! Decoding of A64, the instruction set of aarch64: calls, the stubs through which a module calls
//! others, and the first instructions of functions. The functions here are pure.
//!
//! The encodings are those of the *Arm Architecture Reference Manual*, C4.1.

/// The stack pointer, where an instruction may name it, and the frame pointer.
const SP: u32 = 31;
const FP: u32 = 29;

/// Any hint: `nop`, `bti`, `paciasp` and so on.
const HINT: Pattern = Pattern { mask: 0xffff_f01f, bits: 0xd503_201f };

/// A set of instructions: those that have these bits where the mask has ones.
struct Pattern {
    mask: u32,
    bits: u32,
}

impl Pattern {
    const fn matches(&self, word: u32) -> bool {
        word & self.mask == self.bits
    }
}

/// What a call instruction calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The function at an address.
    Direct(u64),
    /// The function whose address is in a register.
    Indirect,
}

/// Returns what the instruction at an address calls; `None` if it is no call.
pub(crate) fn call(word: u32, at: u64) -> Option<Call> {
    const BL: Pattern = Pattern { mask: 0xfc00_0000, bits: 0x9400_0000 };
    const BLR: Pattern = Pattern { mask: 0xffff_fc1f, bits: 0xd63f_0000 };
    // `blraa`, `blrab`, `blraaz` and `blrabz`, which authenticate the address.
    const BLRA: Pattern = Pattern { mask: 0xfeff_f800, bits: 0xd63f_0800 };
    if BL.matches(word) {
        return Some(Call::Direct(branch_target(word, at)));
    }
    (BLR.matches(word) || BLRA.matches(word)).then_some(Call::Indirect)
}

/// Returns the target of an unconditional branch (`b`), which may be the call of another function
/// at the end of one.
pub(crate) fn jump(word: u32, at: u64) -> Option<u64> {
    const B: Pattern = Pattern { mask: 0xfc00_0000, bits: 0x1400_0000 };
    B.matches(word).then(|| branch_target(word, at))
}

/// Returns the target of `b` or `bl`: a signed number of instructions in the low 26 bits.
fn branch_target(word: u32, at: u64) -> u64 {
    at.wrapping_add_signed(signed(word, 26) * 4)
}

/// The number of instructions that [`stub_slot`] needs.
pub(crate) const STUB: usize = 5;

/// Returns the address of the word with the function that a stub of the procedure linkage table
/// calls: `adrp x16, ..; ldr x17, [x16, ..]; add x16, x16, ..; br x17`, with or without `bti`
/// before it.
pub(crate) fn stub_slot(code: &[u32], at: u64) -> Option<u64> {
    const ADRP_X16: Pattern = Pattern { mask: 0x9f00_001f, bits: 0x9000_0010 };
    const LDR_X17_X16: Pattern = Pattern { mask: 0xffc0_03ff, bits: 0xf940_0211 };
    const BR_X17: u32 = 0xd61f_0220;
    let skipped = code.first().is_some_and(|&first| HINT.matches(first)) as usize;
    let &[adrp, load, _, branch] = code.get(skipped..skipped + 4)? else { return None };
    if !ADRP_X16.matches(adrp) || !LDR_X17_X16.matches(load) || branch != BR_X17 {
        return None;
    }
    let at = at.wrapping_add(4 * skipped as u64);
    // The number of pages has its lowest two bits apart.
    let pages = signed((adrp >> 3) & 0x1f_fffc | (adrp >> 29) & 3, 21);
    let page = (at & !0xfff).wrapping_add_signed(pages << 12);
    Some(page.wrapping_add(u64::from((load >> 10) & 0xfff) * 8))
}

/// Returns how far above its stack pointer a function's frame pointer is in its body.
///
/// It is decoded from the function's first instructions, up to the first branch. `None` when the
/// function keeps no frame pointer, or aligns its stack at run time.
pub(crate) fn frame_size(code: &[u8]) -> Option<u64> {
    let words: Vec<u32> = words(code).collect();
    // The distance of the frame pointer, once it is set.
    let mut distance: Option<u64> = None;
    let mut at = 0;
    while let Some(&word) = words.get(at) {
        if let Some((length, size)) = probing_loop(&words[at..]) {
            distance = distance.map(|distance| distance + size);
            at += length;
            continue;
        }
        match effect(word) {
            Effect::None => {}
            Effect::SetsFramePointer(above) => distance = Some(above),
            Effect::Lowers(by) => distance = distance.map(|distance| distance + by),
            // The function returns before it branches.
            Effect::Raises => return distance,
            Effect::Ends => return distance,
            Effect::Unknown => return None,
        }
        at += 1;
    }
    distance
}

/// Returns the instructions of code.
pub(crate) fn words(code: &[u8]) -> impl Iterator<Item = u32> {
    code.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

/// What an instruction does to the stack pointer and the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    None,
    /// The frame pointer is this far above the stack pointer.
    SetsFramePointer(u64),
    Lowers(u64),
    Raises,
    /// A branch.
    Ends,
    /// One of them has a value that is not known.
    Unknown,
}

fn effect(word: u32) -> Effect {
    // Branches, exceptions and system instructions. Hints and `mrs` do not branch.
    const BRANCHES: Pattern = Pattern { mask: 0x1c00_0000, bits: 0x1400_0000 };
    const SYSTEM: Pattern = Pattern { mask: 0xff00_0000, bits: 0xd500_0000 };
    // `add` and `sub` of a constant, without flags.
    const ADD_SUB: Pattern = Pattern { mask: 0xbf80_0000, bits: 0x9100_0000 };
    const ADD_SUB_EXTENDED: Pattern = Pattern { mask: 0xbfe0_0000, bits: 0x8b20_0000 };
    const LOGICAL: Pattern = Pattern { mask: 0x9f80_0000, bits: 0x9200_0000 };
    // Loads and stores of one register or two, which change the address's register.
    const PAIR_INDEXED: Pattern = Pattern { mask: 0x3a80_0000, bits: 0x2880_0000 };
    const ONE_INDEXED: Pattern = Pattern { mask: 0x3b20_0400, bits: 0x3800_0400 };
    const LOADS_PAIR: Pattern = Pattern { mask: 0x3a40_0000, bits: 0x2840_0000 };

    let (target, base) = (word & 0x1f, (word >> 5) & 0x1f);
    if SYSTEM.matches(word) {
        return Effect::None;
    }
    if BRANCHES.matches(word) {
        return Effect::Ends;
    }
    if ADD_SUB.matches(word) {
        let value = u64::from((word >> 10) & 0xfff) << if word & (1 << 22) != 0 { 12 } else { 0 };
        let is_sub = word & (1 << 30) != 0;
        return match (target, base, is_sub) {
            (SP, SP, true) => Effect::Lowers(value),
            (SP, SP, false) => Effect::Raises,
            (FP, SP, false) => Effect::SetsFramePointer(value),
            (SP | FP, _, _) => Effect::Unknown,
            // The end of a loop that probes the stack, or of an alignment.
            (_, SP, true) => Effect::Unknown,
            _ => Effect::None,
        };
    }
    if (ADD_SUB_EXTENDED.matches(word) || LOGICAL.matches(word)) && target == SP && word >> 29 & 3 != 3 {
        return Effect::Unknown;
    }
    if PAIR_INDEXED.matches(word) && base == SP {
        // The offset is a number of registers, of 4, 8 or 16 bytes.
        let is_vector = word & (1 << 26) != 0;
        let scale = if is_vector { 2 + (word >> 30) } else { 2 + (word >> 31) };
        return moved(signed(word >> 15, 7) << scale);
    }
    if ONE_INDEXED.matches(word) && base == SP {
        return moved(signed(word >> 12, 9));
    }
    if LOADS_PAIR.matches(word) && (target == FP || (word >> 10) & 0x1f == FP) && word & (1 << 26) == 0 {
        return Effect::Ends;
    }
    Effect::None
}

fn moved(by: i64) -> Effect {
    if by < 0 { Effect::Lowers(by.unsigned_abs()) } else { Effect::Raises }
}

/// Returns the length of a loop that probes the stack, and by how much it lowers the stack pointer:
/// `sub xN, sp, #size; sub sp, sp, #4096; str xzr, [sp]; cmp sp, xN; b.ne` to the second.
fn probing_loop(words: &[u32]) -> Option<(usize, u64)> {
    const SUB_OF_SP: Pattern = Pattern { mask: 0xff80_03e0, bits: 0xd100_03e0 };
    const CMP_SP: Pattern = Pattern { mask: 0xffe0_ffff, bits: 0xeb20_63ff };
    const SUB_PAGE: u32 = 0xd140_07ff;
    const STORE: u32 = 0xf900_03ff;
    const BACK: u32 = 0x54ff_ffa1;
    let &[end, SUB_PAGE, STORE, compare, BACK] = words.get(..5)? else { return None };
    let register = end & 0x1f;
    if !SUB_OF_SP.matches(end) || register == SP || !CMP_SP.matches(compare) || (compare >> 16) & 0x1f != register {
        return None;
    }
    let size = u64::from((end >> 10) & 0xfff) << if end & (1 << 22) != 0 { 12 } else { 0 };
    Some((5, size))
}

/// Returns the low bits of a word as a signed number.
fn signed(word: u32, bits: u32) -> i64 {
    i64::from((word << (32 - bits)).cast_signed() >> (32 - bits))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
