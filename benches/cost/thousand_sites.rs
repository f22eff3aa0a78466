//! A thousand sites at which a future is watched.

use std::future::{Ready, ready};

use pollwatch::{Watchdog, Watched};

#[track_caller]
fn s(w: &Watchdog) -> Watched<Ready<()>> {
    w.watch(ready(()))
}

#[rustfmt::skip]
pub(crate) fn futures(w: &Watchdog) -> [Watched<Ready<()>>; 1_000] {
    [
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
        s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w), s(w),
    ]
}
