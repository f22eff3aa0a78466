use std::ops::Range;
use std::time::Duration;

pub(super) fn thread_id() -> Option<i32> {
    None
}

pub(super) fn cpu_modes(_tid: i32) -> Option<super::CpuModes> {
    None
}

pub(super) fn cpu_time(_tid: i32) -> Option<Duration> {
    None
}

pub(super) fn cpu_time_of_process() -> Option<Duration> {
    None
}

pub(super) fn own_stack() -> Option<Range<usize>> {
    None
}
