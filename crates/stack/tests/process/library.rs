//! A library that the target loads while it is watched.

use std::hint::black_box;
use std::time::Duration;

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sleeps_in_library() {
    std::thread::sleep(Duration::from_secs(black_box(3_600)));
    black_box(());
}
