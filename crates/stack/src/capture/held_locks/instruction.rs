//! The lengths of x86_64 instructions, and where each leads. Pure.
//!
//! The tables follow the opcode maps of the Intel manual (volume 2, appendix A). Instructions
//! are distinguished as far as it matters for what cleanup code drops: jumps, calls, and those that
//! load a register with a variable or its address.

mod changes;

pub(super) use changes::{Changes, Region};

/// The most bytes of one instruction.
pub(super) const MAX_LEN: usize = 15;

/// A general-purpose register, by its number in the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Register(u8);

impl Register {
    pub(crate) const COUNT: usize = 16;
    pub(crate) const RBX: Register = Register(3);
    pub(crate) const RSP: Register = Register(4);
    pub(crate) const RBP: Register = Register(5);
    pub(crate) const RSI: Register = Register(6);
    pub(crate) const RDI: Register = Register(7);

    /// The registers that a call may change.
    pub(crate) const VOLATILE: [Register; 9] = [
        Register(0),
        Register(1),
        Register(2),
        Register::RSI,
        Register::RDI,
        Register(8),
        Register(9),
        Register(10),
        Register(11),
    ];

    /// The registers with the numbers 12 to 15, which a call keeps like `rbx` and `rbp`.
    pub(crate) const R12_TO_R15: [Register; 4] = [Register(12), Register(13), Register(14), Register(15)];

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) len: usize,
    pub(super) effect: Effect,
}

/// What an instruction does to the flow of control, or to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It continues with the next instruction, and sets nothing.
    Other,
    /// It sets registers or memory to values that are not followed, and continues.
    Overwrite(Changes),
    /// It puts a register on the stack.
    Push(Register),
    /// It puts a constant or a word of memory on the stack, which is not followed.
    PushUnknown,
    /// It takes a register from the stack.
    Pop(Register),
    /// It sets a register, and continues.
    Set { to: Register, from: Operand },
    /// It stores a register in memory, at this distance from the address in another one.
    Store { base: Register, offset: i64, from: Register },
    /// It jumps by this distance from its end.
    Jump(i64),
    /// It jumps by this distance from its end, or continues.
    Branch(i64),
    /// It calls the function at this distance from its end.
    Call(i64),
    /// It calls the function whose address is stored at this distance from its end.
    CallStored(i64),
    /// It calls the function whose address is in a register.
    CallRegister(Register),
    /// It calls a function whose address is computed otherwise.
    CallComputed,
    /// It jumps to the function whose address is stored at this distance from its end.
    JumpStored(i64),
    /// It returns, traps, or jumps to a computed address.
    End,
}

/// What a register is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Register(Register),
    /// The word in memory at this distance from the address in a register.
    Memory(Register, i64),
    /// The address at this distance from the one in a register.
    Address(Register, i64),
    /// The address at this distance from the end of the instruction, such as that of a static.
    Relative(i64),
    /// The word in memory at this distance from the end of the instruction, such as the address of
    /// a function of another crate.
    RelativeWord(i64),
    /// Something that is not followed.
    Unknown,
}

/// The prefixes of an instruction.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    has_operand_size: bool,
    /// True with the prefix `f3`, which selects among vector instructions.
    is_repeated: bool,
    rex: u8,
}

impl Prefixes {
    fn is_wide(self) -> bool {
        self.rex & 8 != 0
    }

    fn immediate(self) -> usize {
        if self.has_operand_size && !self.is_wide() { 2 } else { 4 }
    }
}

/// Decodes the instruction at the start of `code`; `None` if it is unknown or incomplete.
pub(super) fn decode(code: &[u8]) -> Option<Instruction> {
    let mut at = 0;
    let mut prefixes = Prefixes::default();
    loop {
        match *code.get(at)? {
            0x66 => prefixes.has_operand_size = true,
            0xf3 => prefixes.is_repeated = true,
            0x67 | 0xf0 | 0xf2 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65 => {}
            _ => break,
        }
        at += 1;
    }
    if let rex @ 0x40..=0x4f = *code.get(at)? {
        prefixes.rex = rex;
        at += 1;
    }
    let opcode = *code.get(at)?;
    at += 1;
    let mut instruction = match opcode {
        0x0f => two_bytes(code, at)?,
        // VEX and EVEX prefixes hold the opcode map in their second byte.
        0xc5 => vector(code, at + 1, 1)?,
        0xc4 => vector(code, at + 2, *code.get(at)? & 0x1f)?,
        0x62 => vector(code, at + 3, *code.get(at)? & 0x07)?,
        _ => one_byte(code, at, opcode, prefixes)?,
    };
    if instruction.effect == Effect::Other {
        let changes = match opcode {
            0x0f => changes::of_two_bytes(code, at, prefixes),
            0xc5 | 0xc4 | 0x62 => changes::of_vector(code, opcode, at),
            _ => changes::of_one_byte(code, at, opcode, prefixes),
        };
        if changes != Changes::default() {
            instruction.effect = Effect::Overwrite(changes);
        }
    }
    (instruction.len <= code.len().min(MAX_LEN)).then_some(instruction)
}

fn one_byte(code: &[u8], at: usize, opcode: u8, prefixes: Prefixes) -> Option<Instruction> {
    let plain = |len| Some(Instruction { len, effect: Effect::Other });
    let operand = |immediate| plain(modrm(code, at)? + immediate);
    match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => operand(0),
            4 => plain(at + 1),
            5 => plain(at + prefixes.immediate()),
            _ => None,
        },
        0x50..=0x57 => Some(Instruction { len: at, effect: Effect::Push(low_register(opcode, prefixes)) }),
        0x58..=0x5f => Some(Instruction { len: at, effect: Effect::Pop(low_register(opcode, prefixes)) }),
        0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf | 0xc9 | 0xcc | 0xf5 | 0xf8..=0xfd => plain(at),
        // Otherwise it is a prefix of AMD's XOP instructions, which no current processor has.
        0x8f if code.get(at)? >> 3 & 7 != 0 => None,
        0x63 | 0x84..=0x88 | 0x8a | 0x8c | 0x8e | 0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe => operand(0),
        0x89 | 0x8b | 0x8d => Some(Instruction { len: modrm(code, at)?, effect: moved(code, at, opcode, prefixes)? }),
        0x68 => Some(Instruction { len: at + prefixes.immediate(), effect: Effect::PushUnknown }),
        0x6a => Some(Instruction { len: at + 1, effect: Effect::PushUnknown }),
        0x81 | 0x83 if prefixes.is_wide() && code.get(at)? >> 6 == 3 => arithmetic(code, at, opcode, prefixes),
        0x69 | 0x81 | 0xc7 => operand(prefixes.immediate()),
        0xa8 | 0xb0..=0xb7 | 0xcd => plain(at + 1),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => operand(1),
        // Loops (e0 to e2) also count down a register, and no compiler emits them.
        0x70..=0x7f | 0xe3 => {
            Some(Instruction { len: at + 1, effect: Effect::Branch(i64::from(code.get(at)?.cast_signed())) })
        }
        0xa0..=0xa3 => plain(at + 8),
        0xa9 => plain(at + prefixes.immediate()),
        0xb8..=0xbf => plain(at + if prefixes.is_wide() { 8 } else { prefixes.immediate() }),
        0xc2 => Some(Instruction { len: at + 2, effect: Effect::End }),
        0xc3 | 0xf4 => Some(Instruction { len: at, effect: Effect::End }),
        0xc8 => plain(at + 3),
        0xe8 => Some(Instruction { len: at + 4, effect: Effect::Call(distance(code, at)?) }),
        0xe9 => Some(Instruction { len: at + 4, effect: Effect::Jump(distance(code, at)?) }),
        0xeb => Some(Instruction { len: at + 1, effect: Effect::Jump(i64::from(code.get(at)?.cast_signed())) }),
        0xf6 => operand(usize::from(code.get(at)? >> 3 & 7 < 2)),
        0xf7 => operand(if code.get(at)? >> 3 & 7 < 2 { prefixes.immediate() } else { 0 }),
        0xff => {
            let (len, byte) = (modrm(code, at)?, *code.get(at)?);
            let is_stored = byte & 0xc7 == 0x05;
            let effect = match byte >> 3 & 7 {
                2 if is_stored => Effect::CallStored(distance(code, at + 1)?),
                4 if is_stored => Effect::JumpStored(distance(code, at + 1)?),
                2 if byte >> 6 == 3 => Effect::CallRegister(low_register(byte, prefixes)),
                2 => Effect::CallComputed,
                4 | 5 => Effect::End,
                6 => Effect::PushUnknown,
                _ => Effect::Other,
            };
            Some(Instruction { len, effect })
        }
        _ => None,
    }
}

fn two_bytes(code: &[u8], at: usize) -> Option<Instruction> {
    let opcode = *code.get(at)?;
    let at = at + 1;
    let plain = |len| Some(Instruction { len, effect: Effect::Other });
    match opcode {
        0x0b => Some(Instruction { len: at, effect: Effect::End }),
        0x05 | 0x06 | 0x08 | 0x09 | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => plain(at),
        0x38 => plain(modrm(code, at + 1)?),
        0x3a => plain(modrm(code, at + 1)? + 1),
        0x80..=0x8f => Some(Instruction { len: at + 4, effect: Effect::Branch(distance(code, at)?) }),
        _ => plain(modrm(code, at)? + immediate_of_map_1(opcode)),
    }
}

/// Decodes an instruction with a vector prefix, whose opcode is at `at`.
fn vector(code: &[u8], at: usize, map: u8) -> Option<Instruction> {
    let opcode = *code.get(at)?;
    if map == 1 && opcode == 0x77 {
        return Some(Instruction { len: at + 1, effect: Effect::Other });
    }
    let immediate = match map {
        1 => immediate_of_map_1(opcode),
        3 => 1,
        _ => 0,
    };
    Some(Instruction { len: modrm(code, at + 1)? + immediate, effect: Effect::Other })
}

fn immediate_of_map_1(opcode: u8) -> usize {
    usize::from(matches!(opcode, 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6))
}

/// Returns the end of the operand whose ModRM byte is at `at`.
fn modrm(code: &[u8], at: usize) -> Option<usize> {
    let byte = *code.get(at)?;
    let (mode, low) = (byte >> 6, byte & 7);
    let mut end = at + 1;
    if mode == 3 {
        return Some(end);
    }
    let mut base = low;
    if low == 4 {
        base = *code.get(end)? & 7;
        end += 1;
    }
    Some(match mode {
        0 if low == 5 || low == 4 && base == 5 => end + 4,
        0 => end,
        1 => end + 1,
        _ => end + 4,
    })
}

/// Decodes an instruction that adds a constant to a 64-bit register, or changes it otherwise.
fn arithmetic(code: &[u8], at: usize, opcode: u8, prefixes: Prefixes) -> Option<Instruction> {
    let byte = *code.get(at)?;
    let to = Register(byte & 7 | (prefixes.rex & 1) << 3);
    let (len, constant) = match opcode {
        0x83 => (at + 2, i64::from(code.get(at + 1)?.cast_signed())),
        _ => (at + 5, distance(code, at + 1)?),
    };
    let effect = match byte >> 3 & 7 {
        0 => added(to, constant),
        5 => added(to, -constant),
        // A comparison.
        7 => Effect::Other,
        _ => Effect::Set { to, from: Operand::Unknown },
    };
    Some(Instruction { len, effect })
}

/// Returns the register whose number is the end of this byte.
fn low_register(opcode: u8, prefixes: Prefixes) -> Register {
    Register(opcode & 7 | (prefixes.rex & 1) << 3)
}

fn added(to: Register, constant: i64) -> Effect {
    Effect::Set { to, from: Operand::Address(to, constant) }
}

/// Returns what a `mov` or `lea` does to a register.
fn moved(code: &[u8], at: usize, opcode: u8, prefixes: Prefixes) -> Option<Effect> {
    let byte = *code.get(at)?;
    let (mode, low) = (byte >> 6, byte & 7);
    let register = Register(byte >> 3 & 7 | (prefixes.rex & 4) << 1);
    let other = Register(low | (prefixes.rex & 1) << 3);
    if opcode == 0x89 {
        let from = if prefixes.is_wide() { Operand::Register(register) } else { Operand::Unknown };
        return Some(match memory(code, at, prefixes)? {
            _ if mode == 3 => Effect::Set { to: other, from },
            Some((base, offset)) if prefixes.is_wide() => Effect::Store { base, offset, from: register },
            _ => Effect::Other,
        });
    }
    let is_load = opcode == 0x8b;
    let from = match memory(code, at, prefixes)? {
        _ if !prefixes.is_wide() => Operand::Unknown,
        None if mode == 3 && is_load => Operand::Register(other),
        None if mode == 0 && low == 5 && is_load => Operand::RelativeWord(distance(code, at + 1)?),
        None if mode == 0 && low == 5 => Operand::Relative(distance(code, at + 1)?),
        None => Operand::Unknown,
        Some((base, offset)) if is_load => Operand::Memory(base, offset),
        Some((base, offset)) => Operand::Address(base, offset),
    };
    Some(Effect::Set { to: register, from })
}

/// Returns the base and the offset of a memory operand; `Some(None)` for one of another form.
fn memory(code: &[u8], at: usize, prefixes: Prefixes) -> Option<Option<(Register, i64)>> {
    let byte = *code.get(at)?;
    let (mode, low) = (byte >> 6, byte & 7);
    let (base, offset_at) = match low {
        _ if mode == 3 => return Some(None),
        4 => {
            let scaled = *code.get(at + 1)?;
            // Number 4 stands for no index, unless it is extended.
            if scaled >> 3 & 7 != 4 || prefixes.rex & 2 != 0 {
                return Some(None);
            }
            (scaled & 7, at + 2)
        }
        _ => (low, at + 1),
    };
    let offset = match mode {
        // Relative to the instruction pointer, or absolute.
        0 if base == 5 => return Some(None),
        0 => 0,
        1 => i64::from(code.get(offset_at)?.cast_signed()),
        _ => distance(code, offset_at)?,
    };
    Some(Some((Register(base | (prefixes.rex & 1) << 3), offset)))
}

fn distance(code: &[u8], at: usize) -> Option<i64> {
    Some(i64::from(i32::from_le_bytes(code.get(at..at + 4)?.try_into().ok()?)))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
