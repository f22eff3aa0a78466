//! What a piece of code passes to the functions that it calls. Pure.
//!
//! This is a small abstract interpretation: the code is followed along all its branches, and a
//! register is known as long as it holds a value that it had at the start, a word near it, or an
//! address near it. Cleanup code needs no more: it passes variables to the functions that drop
//! them.

use std::collections::HashSet;
use std::ops::Range;

use super::super::unwind::ReadCode;
use super::instruction::{Effect, MAX_LEN, Operand, Region, Register, decode};

/// The most instructions of one piece of code that are followed.
const MAX_INSTRUCTIONS: usize = 4_096;
/// The number of bytes of code that are read at once.
const WINDOW: usize = 256;

/// A value, by what the registers held where the code starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// The address at this distance from the one in a register: at 0, the register itself.
    Near(Register, i64),
    /// The word in memory at this distance from the address in a register.
    Loaded(Register, i64),
    /// This address, such as that of a static.
    Fixed(u64),
    /// The word in memory at this address.
    Stored(u64),
    Unknown,
}

impl Value {
    fn offset(self, by: i64) -> Value {
        match self {
            Value::Near(register, offset) => Value::Near(register, offset.wrapping_add(by)),
            Value::Fixed(address) => Value::Fixed(address.wrapping_add_signed(by)),
            _ => Value::Unknown,
        }
    }

    fn load(self, at: i64) -> Value {
        match self.offset(at) {
            Value::Near(register, offset) => Value::Loaded(register, offset),
            Value::Fixed(address) => Value::Stored(address),
            _ => Value::Unknown,
        }
    }

    /// Returns this value of a called function by the registers of its caller.
    pub(super) fn in_caller(self, call: &Call) -> Value {
        let of = |register| match register {
            Register::RDI => call.first,
            Register::RSI => call.second,
            _ => Value::Unknown,
        };
        match self {
            Value::Near(register, offset) => match of(register) {
                value if offset == 0 => value,
                value => value.offset(offset),
            },
            Value::Loaded(register, offset) => of(register).load(offset),
            Value::Fixed(_) | Value::Stored(_) | Value::Unknown => self,
        }
    }
}

/// A call, with its first two arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) target: u64,
    pub(crate) first: Value,
    pub(crate) second: Value,
}

/// The calls of a piece of code.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    pub(super) list: Vec<Call>,
    /// False if some of the code could not be followed.
    pub(super) is_complete: bool,
}

/// The most parts of memory that are remembered at once.
const MAX_STORED: usize = 128;

/// A part of memory that was overwritten.
#[derive(Clone, Copy)]
struct Stored {
    at: Value,
    len: i64,
    /// The word there; unknown for a part of another length.
    value: Value,
}

/// The size of a word.
const WORD: i64 = 8;

impl Stored {
    /// Returns whether the two parts share bytes. Only parts at the same register are compared: the
    /// compiler addresses a variable in one way.
    fn overlaps(&self, at: Value, len: i64) -> bool {
        let distance = match (self.at, at) {
            (Value::Near(base, offset), Value::Near(other, from)) if base == other => from.checked_sub(offset),
            (Value::Fixed(address), Value::Fixed(from)) => Some(from.wrapping_sub(address).cast_signed()),
            _ => return false,
        };
        distance.is_some_and(|distance| distance < self.len && distance.saturating_neg() < len)
    }
}

/// The values of all registers, and of the memory that was overwritten.
#[derive(Clone)]
struct State {
    registers: [Value; Register::COUNT],
    /// The parts of memory at known locations, the latest last.
    stored: Vec<Stored>,
    /// True if more was overwritten than is remembered.
    has_forgotten: bool,
}

impl State {
    fn get(&self, register: Register) -> Value {
        self.registers[register.index()]
    }

    fn set(&mut self, register: Register, value: Value) {
        self.registers[register.index()] = value;
    }

    fn load(&self, base: Register, offset: i64) -> Value {
        let at = self.get(base).offset(offset);
        match self.stored.iter().rev().find(|stored| stored.overlaps(at, WORD)) {
            Some(stored) if stored.at == at && stored.len == WORD => stored.value,
            Some(_) => Value::Unknown,
            None if self.has_forgotten => Value::Unknown,
            None => self.get(base).load(offset),
        }
    }

    /// Stores a value. Memory at an unknown location is taken for none that is remembered.
    fn store(&mut self, region: Region, value: Value) {
        let Region { base, offset, len } = region;
        let at = self.get(base).offset(offset);
        self.stored.retain(|stored| !(stored.at == at && stored.len == len));
        if at == Value::Unknown {
            return;
        }
        if self.stored.len() < MAX_STORED {
            self.stored.push(Stored { at, len, value });
        } else {
            self.stored.retain(|stored| !stored.overlaps(at, len));
            self.has_forgotten = true;
        }
    }

    fn move_stack(&mut self, by: i64) {
        self.set(Register::RSP, self.get(Register::RSP).offset(by));
    }
}

/// Follows the code at `start` within `function`. `is_endless` says of a function that it never
/// returns.
pub(super) fn calls(read: ReadCode<'_>, function: &Range<u64>, start: u64, is_endless: &dyn Fn(u64) -> bool) -> Calls {
    let mut state = State { registers: [Value::Unknown; Register::COUNT], stored: Vec::new(), has_forgotten: false };
    let saved = [Register::RBX, Register::RSP, Register::RBP, Register::RSI, Register::RDI];
    for register in saved.into_iter().chain(Register::R12_TO_R15) {
        state.set(register, Value::Near(register, 0));
    }
    let (seen, open) = (HashSet::new(), vec![(start, state)]);
    let mut walk = Walk { read, function, is_endless, seen, open, left: MAX_INSTRUCTIONS, has_unknown_call: false };
    let mut calls = Calls { list: Vec::new(), is_complete: true };
    while let Some((at, state)) = walk.open.pop() {
        if !walk.block(at, state, &mut calls.list) {
            calls.is_complete = false;
        }
    }
    calls.is_complete &= !walk.has_unknown_call;
    calls
}

struct Walk<'a> {
    read: ReadCode<'a>,
    function: &'a Range<u64>,
    is_endless: &'a dyn Fn(u64) -> bool,
    seen: HashSet<u64>,
    /// Addresses from which the code has to be followed.
    open: Vec<(u64, State)>,
    left: usize,
    /// True if a function was called whose address a register has had since before the code.
    has_unknown_call: bool,
}

impl Walk<'_> {
    /// Follows the code at `at` until it ends or was followed before. Returns false if it could not
    /// be followed to its end.
    fn block(&mut self, mut at: u64, mut state: State, calls: &mut Vec<Call>) -> bool {
        let mut window = [0; WINDOW];
        let mut loaded = 0..0;
        loop {
            // Two paths to the same code may have other values in registers. The first one counts:
            // cleanup code has each variable at one location.
            if !self.function.contains(&at) || !self.seen.insert(at) {
                return true;
            }
            let Some(left) = self.left.checked_sub(1) else { return false };
            self.left = left;
            if !(loaded.contains(&at) && loaded.contains(&(at + MAX_LEN as u64))) {
                let len = (self.function.end - at).min(WINDOW as u64);
                if !(self.read)(at, &mut window[..len as usize]) {
                    return false;
                }
                loaded = at..at + len;
            }
            let code = &window[(at - loaded.start) as usize..(loaded.end - loaded.start) as usize];
            let Some(instruction) = decode(code) else { return false };
            let next = at + instruction.len as u64;
            let target = |distance| next.wrapping_add_signed(distance);
            let mut call = |target, state: &State| {
                let (first, second) = (state.get(Register::RDI), state.get(Register::RSI));
                calls.push(Call { target, first, second });
            };
            let called = match instruction.effect {
                Effect::Other => None,
                Effect::Set { to, from } => {
                    let value = match from {
                        Operand::Register(from) => state.get(from),
                        Operand::Memory(base, offset) => state.load(base, offset),
                        Operand::Address(base, offset) => state.get(base).offset(offset),
                        Operand::Relative(distance) => Value::Fixed(target(distance)),
                        Operand::RelativeWord(distance) => Value::Stored(target(distance)),
                        Operand::Unknown => Value::Unknown,
                    };
                    state.set(to, value);
                    None
                }
                Effect::Store { base, offset, from } => {
                    state.store(Region { base, offset, len: WORD }, state.get(from));
                    None
                }
                Effect::Overwrite(changes) => {
                    // The location of the memory follows from the registers before.
                    changes.memory.into_iter().for_each(|region| state.store(region, Value::Unknown));
                    changes.registers.iter().for_each(|register| state.set(register, Value::Unknown));
                    None
                }
                Effect::Push(from) => {
                    let value = state.get(from);
                    state.move_stack(-WORD);
                    state.store(Region { base: Register::RSP, offset: 0, len: WORD }, value);
                    None
                }
                Effect::PushUnknown => {
                    state.move_stack(-WORD);
                    state.store(Region { base: Register::RSP, offset: 0, len: WORD }, Value::Unknown);
                    None
                }
                Effect::Pop(to) => {
                    let value = state.load(Register::RSP, 0);
                    state.move_stack(WORD);
                    state.set(to, value);
                    None
                }
                Effect::End => return true,
                Effect::Jump(distance) if self.function.contains(&target(distance)) => {
                    at = target(distance);
                    continue;
                }
                // A call in the last position.
                Effect::Jump(distance) => {
                    call(target(distance), &state);
                    return true;
                }
                Effect::JumpStored(distance) => {
                    if let Some(to) = self.word(target(distance)) {
                        call(to, &state);
                    }
                    return true;
                }
                Effect::Branch(distance) => {
                    self.open.push((target(distance), state.clone()));
                    None
                }
                Effect::Call(distance) => Some(Some(target(distance))),
                Effect::CallStored(distance) => Some(self.word(target(distance))),
                Effect::CallRegister(from) => Some(self.function_at(state.get(from))),
                Effect::CallComputed => Some(None),
            };
            if let Some(called) = called {
                if let Some(to) = called {
                    call(to, &state);
                    if (self.is_endless)(to) {
                        return true;
                    }
                }
                Register::VOLATILE.into_iter().for_each(|register| state.set(register, Value::Unknown));
            }
            at = next;
        }
    }

    /// Returns the function whose address is this value, where that is known. A function of another
    /// crate has its address in a table.
    fn function_at(&mut self, value: Value) -> Option<u64> {
        match value {
            Value::Fixed(address) => Some(address),
            Value::Stored(at) => self.word(at),
            // Code in front of this has loaded it. A method of a trait object is loaded here.
            Value::Near(..) => {
                self.has_unknown_call = true;
                None
            }
            Value::Loaded(..) | Value::Unknown => None,
        }
    }

    fn word(&self, at: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read)(at, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests;
