//! A program for the tests of symbols. It prints the offset of `outer`.

use std::hint::black_box;

#[inline(always)]
fn inlined(x: u64) -> u64 {
    black_box(x) + 1
}

#[inline(never)]
fn outer(x: u64) -> u64 {
    let y = inlined(x);
    black_box(y) * 2
}

fn main() {
    let function: fn(u64) -> u64 = outer;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let base = usize::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
    println!("{}", black_box(function) as usize - base);
    black_box(outer(1));
}
