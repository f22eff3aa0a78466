//! Random numbers without shared state.

use std::cell::Cell;

/// Returns a random number of the calling thread's own generator
/// ([xorshift64*](https://en.wikipedia.org/wiki/Xorshift#xorshift*)).
pub(crate) fn random() -> u32 {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    let next = STATE.try_with(|state| {
        let mut x = state.get();
        if x == 0 {
            // The seed is the state's own address, which differs between threads and is never 0.
            x = std::ptr::from_ref(state) as u64;
            x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        }
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    });
    // While the thread exits, its state is gone. The largest number rejects a request only if all
    // are rejected.
    next.unwrap_or(u32::MAX)
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn threads_draw_different_numbers() {
        let draw = || (0..8).map(|_| random()).collect::<Vec<_>>();
        let here = draw();
        assert_ne!(here, draw());
        assert_ne!(here, std::thread::spawn(draw).join().unwrap());
    }
}
