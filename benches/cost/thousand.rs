//! A thousand places to watch a future at.

use std::future::{Ready, ready};

use pollwatch::{Watchdog, Watched};

#[track_caller]
fn s(w: &Watchdog) -> Watched<Ready<()>> {
    w.watch(ready(()))
}

#[rustfmt::skip]
pub(crate) fn places(w: &Watchdog) -> [Watched<Ready<()>>; 1_000] {
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
