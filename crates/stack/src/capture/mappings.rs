//! The mapping that contains a stack.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use crate::{Address, StackBounds};

/// The most mappings that are read. A process with more has none of its stacks found.
const MAX_MAPPINGS: usize = 65_536;

/// The age up to which the mappings are not read again for one thread. A stack that was unmapped
/// since cannot be read, or is that of another thread, whose stack pointer is not within it.
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) const MAX_AGE: Duration = Duration::from_millis(50);

/// The writable mappings of the process, of which some are stacks.
#[derive(Default)]
pub(super) struct Mappings {
    /// In the order of their addresses.
    list: Vec<StackBounds>,
    read_at: Option<Instant>,
}

impl Mappings {
    /// Returns the part of memory that may be read as the stack of a thread with this stack
    /// pointer; `None` where the mappings cannot be read. They are read again once they are older
    /// than `max_age`, or if they lack the stack.
    pub(super) fn stack_at(&mut self, sp: Address, max_age: Duration) -> Option<StackBounds> {
        let is_current = self.read_at.is_some_and(|read_at| read_at.elapsed() <= max_age);
        if let Some(bounds) = self.find(sp).filter(|_| is_current) {
            return Some(bounds);
        }
        let file = std::fs::File::open("/proc/self/maps").ok()?;
        self.list = parse_all(BufReader::with_capacity(1 << 16, file));
        self.read_at = Some(Instant::now());
        self.find(sp)
    }

    fn find(&self, sp: Address) -> Option<StackBounds> {
        let next = self.list.partition_point(|bounds| bounds.low() <= sp);
        let bounds = *self.list.get(next.checked_sub(1)?)?;
        bounds.contains(sp).then_some(bounds)
    }
}

/// Parses all lines. A path in one need not be UTF-8.
fn parse_all(text: impl BufRead) -> Vec<StackBounds> {
    let lines = text.split(b'\n').take(MAX_MAPPINGS).map_while(Result::ok);
    lines.filter_map(|line| parse(&String::from_utf8_lossy(&line))).collect()
}

/// Parses a line: `start-end rw-p ...`. Only readable and writable mappings are returned.
fn parse(line: &str) -> Option<StackBounds> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok().map(Address::new);
    let is_writable = rest.starts_with("rw");
    StackBounds::from_mapping(address(start)?, address(end)?).filter(|_| is_writable)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_own_stack_is_found() {
        let local = 1u8;
        let address = Address::new(&raw const local as u64);
        let mut mappings = Mappings::default();
        let bounds = mappings.stack_at(address, MAX_AGE).unwrap();
        assert_eq!(mappings.stack_at(address, MAX_AGE), Some(bounds));
        assert!(bounds.contains(address));
        let own = StackBounds::current().unwrap();
        assert!(bounds.high() >= own.high() || bounds.contains(own.low()), "{bounds:?} {own:?}");
        assert_eq!(mappings.stack_at(Address::new(8), MAX_AGE), None);
        assert_eq!(parse("7f00-8000 r--p 00000000 00:00 0"), None);
        assert_eq!(parse("no mapping"), None);
    }

    #[test]
    fn a_path_of_any_bytes_hides_no_mapping() {
        let maps = b"1000-2000 rw-p 0 00:00 0 /tmp/\xff\xfe\n\
                     2000-3000 r--p 0 00:00 0 /tmp/a\n\
                     3000-5000 rw-p 0 00:00 0\n";
        let bounds = |low, high| StackBounds::from_mapping(Address::new(low), Address::new(high)).unwrap();
        assert_eq!(parse_all(&maps[..]), [bounds(0x1000, 0x2000), bounds(0x3000, 0x5000)]);
    }
}
