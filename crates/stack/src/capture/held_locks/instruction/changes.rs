//! The registers and the memory that an instruction overwrites. Pure.
//!
//! A decoder that ignored these would take a register for the variable that it held before. Values
//! that are written here are unknown, so where the manual leaves a choice, more counts as written.

use super::{Prefixes, Register, memory};

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RBX: u8 = 3;
const RSP: u8 = 4;
const RBP: u8 = 5;
const RSI: u8 = 6;
const RDI: u8 = 7;
const R11: u8 = 11;

/// A set of general-purpose registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct RegisterSet(u16);

impl RegisterSet {
    pub(super) fn of(numbers: &[u8]) -> RegisterSet {
        RegisterSet(numbers.iter().fold(0, |set, number| set | 1 << number))
    }

    pub(in super::super) fn iter(self) -> impl Iterator<Item = Register> {
        (0..Register::COUNT as u8).filter(move |number| self.0 >> number & 1 != 0).map(Register)
    }
}

/// Memory at a distance from the address in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Region {
    pub(in super::super) base: Register,
    pub(in super::super) offset: i64,
    pub(in super::super) len: i64,
}

/// The registers and the memory that an instruction overwrites. Memory of another form (a scaled
/// index, or relative to the instruction) is none of the words that the compiler has spilled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Changes {
    pub(in super::super) registers: RegisterSet,
    pub(in super::super) memory: Option<Region>,
}

/// The operands that an instruction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Nothing,
    /// Registers that the opcode implies.
    Implied(RegisterSet),
    /// The operand that is a register, by the `reg` field of the ModRM byte.
    Reg,
    /// The operand that is a register or memory, by the `rm` field.
    Rm,
    /// Both operands.
    Both,
    /// The `rm` operand and implied registers.
    RmAnd(RegisterSet),
    /// The `rm` operand if it is memory, since it is a vector register otherwise.
    Memory,
}

/// The operands of an instruction.
#[derive(Clone, Copy, Debug)]
struct Operands {
    /// The index of the ModRM byte.
    at: usize,
    /// The number of bytes of the `rm` operand, at most.
    len: i64,
}

fn implied(numbers: &[u8]) -> Writes {
    Writes::Implied(RegisterSet::of(numbers))
}

/// Returns what an instruction of the one-byte opcode map overwrites. `at` is the index behind the
/// opcode.
pub(super) fn of_one_byte(code: &[u8], at: usize, opcode: u8, prefixes: Prefixes) -> Changes {
    let byte = code.get(at).copied().unwrap_or_default();
    let digit = byte >> 3 & 7;
    let low = opcode & 7 | (prefixes.rex & 1) << 3;
    if let 0xa4 | 0xa5 | 0xaa | 0xab = opcode {
        let memory = Some(Region { base: Register::RDI, offset: 0, len: i64::MAX });
        return Changes { registers: RegisterSet::of(&[RSI, RDI, RCX]), memory };
    }
    let is_byte = matches!(opcode, 0x80 | 0x86 | 0x88 | 0x8a | 0xb0..=0xb7 | 0xc0 | 0xc6 | 0xd0 | 0xd2 | 0xf6 | 0xfe)
        || opcode < 0x40 && opcode & 1 == 0;
    let writes = match opcode {
        0x38..=0x3f => Writes::Nothing,
        0x00..=0x37 => match opcode & 7 {
            0 | 1 => Writes::Rm,
            2 | 3 => Writes::Reg,
            _ => implied(&[RAX]),
        },
        0x63 | 0x69 | 0x6b | 0x8a => Writes::Reg,
        0x80 | 0x81 | 0x83 if digit == 7 => Writes::Nothing,
        0x80 | 0x81 | 0x83 | 0x88 | 0x89 | 0x8c | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xfe => Writes::Rm,
        0x86 | 0x87 => Writes::Both,
        0x8f => Writes::RmAnd(RegisterSet::of(&[RSP])),
        0x90 if low == 0 => Writes::Nothing,
        0x90..=0x97 => implied(&[RAX, low]),
        0x98 | 0x9f | 0xa0 | 0xa1 => implied(&[RAX]),
        0x99 => implied(&[RDX]),
        0x9c | 0x9d => implied(&[RSP]),
        0xa6 | 0xa7 => implied(&[RSI, RDI, RCX]),
        0xac | 0xad => implied(&[RAX, RSI, RCX]),
        0xae | 0xaf => implied(&[RDI, RCX]),
        0xb0..=0xb7 => implied(&[byte_register(low, prefixes)]),
        0xb8..=0xbf => implied(&[low]),
        0xc8 | 0xc9 => implied(&[RSP, RBP]),
        // Instructions of the x87 unit, one of which stores its status in `ax`.
        0xd8..=0xdf => Writes::RmAnd(RegisterSet::of(&[RAX])),
        0xf6 | 0xf7 if digit < 2 => Writes::Nothing,
        0xf6 | 0xf7 if digit < 4 => Writes::Rm,
        0xf6 | 0xf7 => implied(&[RAX, RDX]),
        0xff if digit < 2 => Writes::Rm,
        _ => Writes::Nothing,
    };
    let len = match opcode {
        _ if is_byte => 1,
        0xd8..=0xdf => 16,
        _ => 8,
    };
    changes(code, Operands { at, len }, writes, prefixes, is_byte)
}

/// Returns what an instruction of the two-byte opcode map, or of one with three bytes, overwrites.
/// `at` is the index of the byte behind `0f`.
pub(super) fn of_two_bytes(code: &[u8], at: usize, prefixes: Prefixes) -> Changes {
    let byte = |at: usize| code.get(at).copied().unwrap_or_default();
    let (opcode, next) = (byte(at), byte(at + 1));
    let low = opcode & 7 | (prefixes.rex & 1) << 3;
    let (at, writes) = match opcode {
        0x38 => (
            at + 2,
            match next {
                0xf0 | 0xf6 => Writes::Reg,
                0xf1 => Writes::Both,
                _ => Writes::Nothing,
            },
        ),
        0x3a => (at + 2, of_map_3(next)),
        _ => (
            at + 1,
            match opcode {
                0x00 | 0xa4 | 0xa5 | 0xab..=0xae | 0xb3 | 0xbb | 0x90..=0x9f => Writes::Rm,
                0x01 => Writes::RmAnd(RegisterSet::of(&[RAX, RCX, RDX])),
                0x02 | 0x03 | 0x40..=0x4f | 0xaf | 0xb2 | 0xb4..=0xb8 | 0xbc..=0xbf => Writes::Reg,
                0x05 => implied(&[RAX, RCX, R11]),
                0x31..=0x33 => implied(&[RAX, RDX]),
                0xa0 | 0xa1 | 0xa8 | 0xa9 => implied(&[RSP]),
                0xa2 => implied(&[RAX, RBX, RCX, RDX]),
                0xb0 | 0xb1 => Writes::RmAnd(RegisterSet::of(&[RAX])),
                0xba if next >> 3 & 7 > 4 => Writes::Rm,
                0xc0 | 0xc1 => Writes::Both,
                0xc3 => Writes::Memory,
                0xc7 => Writes::RmAnd(RegisterSet::of(&[RAX, RDX])),
                0xc8..=0xcf => implied(&[low]),
                _ => of_vector_map_1(opcode, prefixes.is_repeated),
            },
        ),
    };
    let is_byte = matches!(opcode, 0x90..=0x9f | 0xb0 | 0xc0);
    let len = match opcode {
        _ if is_byte => 1,
        0x40..=0x4f | 0xa0..=0xc3 => 8,
        _ => 16,
    };
    changes(code, Operands { at, len }, writes, prefixes, is_byte)
}

/// Returns what an instruction with a vector prefix overwrites: `c5`, `c4` or `62`. `at` is the
/// index of the byte behind it.
pub(super) fn of_vector(code: &[u8], prefix: u8, at: usize) -> Changes {
    let byte = |at: usize| code.get(at).copied().unwrap_or_default();
    let first = byte(at);
    // The upper bits of the first byte are those of `rex` that extend registers, inverted. `c5` has
    // only one of them.
    let (last, opcode_at, map, extended) = match prefix {
        0xc5 => (first, at + 1, 1, 4),
        0xc4 => (byte(at + 1), at + 2, first & 0x1f, 7),
        _ => (byte(at + 1), at + 3, first & 7, 7),
    };
    let opcode = byte(opcode_at);
    let rex = 0x40 | !first >> 5 & extended;
    let vvvv_register = !last >> 3 & 0xf;
    let writes = match map {
        1 | 5 => match opcode {
            0x78 | 0x79 | 0x93 => Writes::Reg,
            0x91 => Writes::Memory,
            _ => of_vector_map_1(opcode, last & 3 == 2),
        },
        2 => match opcode {
            0x10..=0x15 | 0x20..=0x25 | 0x2e | 0x2f | 0x30..=0x35 | 0x63 | 0x8a | 0x8b | 0x8e => Writes::Memory,
            0xf2 | 0xf5 | 0xf7 => Writes::Reg,
            0xf3 => implied(&[vvvv_register]),
            _ => Writes::Nothing,
        },
        3 if opcode == 0xf0 => Writes::Reg,
        3 => of_map_3(opcode),
        _ => Writes::Nothing,
    };
    let prefixes = Prefixes { rex, ..Prefixes::default() };
    let mut changes = changes(code, Operands { at: opcode_at + 1, len: MAX_VECTOR }, writes, prefixes, false);
    if map == 2 && opcode == 0xf6 {
        let register = byte(opcode_at + 1) >> 3 & 7 | (rex & 4) << 1;
        changes.registers = RegisterSet::of(&[register, vvvv_register]);
    }
    let has_short_offset = byte(opcode_at + 1) >> 6 == 1;
    if let (0x62, true, Some(region)) = (prefix, has_short_offset, &mut changes.memory) {
        *region = with_scaled_offset(*region, evex_scale(map, opcode, last & 3, byte(at + 2) >> 5 & 3));
    }
    changes
}

/// The longest vector, in bytes.
const MAX_VECTOR: i64 = 64;

/// Returns the unit of the one-byte offset of an instruction with the prefix `62` (`disp8*N` in the
/// manual), for stores of whole vectors and of scalars; `None` for others. `selector` is the field
/// `pp`, and `length` the field `L'L`.
fn evex_scale(map: u8, opcode: u8, selector: u8, length: u8) -> Option<i64> {
    match (map, opcode, selector) {
        (1, 0x11, 2) => Some(4),
        (1, 0x11, 3) => Some(8),
        (1, 0x11 | 0x29 | 0x2b | 0x7f | 0xe7, _) if length < 3 => Some(16 << length),
        _ => None,
    }
}

/// Returns the region whose offset is given in units of `scale`. For an unknown unit, which is 1 to
/// 64 bytes, it contains all regions that are possible.
fn with_scaled_offset(region: Region, scale: Option<i64>) -> Region {
    let (smallest, greatest) = (scale.unwrap_or(1), scale.unwrap_or(MAX_VECTOR));
    let ends = [region.offset * smallest, region.offset * greatest];
    let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    Region { offset: low, len: high - low + region.len, ..region }
}

/// Vector instructions that have a general-purpose register or memory as their destination.
fn of_vector_map_1(opcode: u8, is_repeated: bool) -> Writes {
    match opcode {
        0x2c | 0x2d | 0x50 | 0xc5 | 0xd7 => Writes::Reg,
        0x7e if is_repeated => Writes::Nothing,
        0x7e => Writes::Rm,
        0x11 | 0x13 | 0x17 | 0x29 | 0x2b | 0x7f | 0xd6 | 0xe7 => Writes::Memory,
        _ => Writes::Nothing,
    }
}

fn of_map_3(opcode: u8) -> Writes {
    match opcode {
        0x14..=0x17 => Writes::Rm,
        0x19 | 0x1b | 0x1d | 0x39 | 0x3b => Writes::Memory,
        0x60..=0x63 => implied(&[RCX]),
        _ => Writes::Nothing,
    }
}

/// Returns the register that contains a byte register: without a `rex` prefix the numbers 4 to 7
/// are the second bytes of the first four registers.
fn byte_register(number: u8, prefixes: Prefixes) -> u8 {
    if prefixes.rex == 0 { number & 3 } else { number }
}

fn changes(code: &[u8], operands: Operands, writes: Writes, prefixes: Prefixes, is_byte: bool) -> Changes {
    let byte = code.get(operands.at).copied().unwrap_or_default();
    let number = |number| if is_byte { byte_register(number, prefixes) } else { number };
    let reg = RegisterSet::of(&[number(byte >> 3 & 7 | (prefixes.rex & 4) << 1)]);
    let rm = RegisterSet::of(&[number(byte & 7 | (prefixes.rex & 1) << 3)]);
    let is_memory = byte >> 6 != 3;
    let region = || {
        let (base, offset) = memory(code, operands.at, prefixes).flatten()?;
        Some(Region { base, offset, len: operands.len })
    };
    let of_rm = |others: RegisterSet| match is_memory {
        true => Changes { registers: others, memory: region() },
        false => Changes { registers: RegisterSet(rm.0 | others.0), memory: None },
    };
    let of_registers = |registers| Changes { registers, memory: None };
    match writes {
        Writes::Nothing => Changes::default(),
        Writes::Implied(registers) => of_registers(registers),
        Writes::Reg => of_registers(reg),
        Writes::Rm => of_rm(RegisterSet::default()),
        Writes::Both => of_rm(reg),
        Writes::RmAnd(registers) => of_rm(registers),
        Writes::Memory if is_memory => of_rm(RegisterSet::default()),
        Writes::Memory => Changes::default(),
    }
}
