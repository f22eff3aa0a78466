//! The settings of an attach that are plain data.

use std::time::Duration;

use crate::model::log_format::LogFormat;

/// The settings of an attach that are plain data.
#[derive(Clone, Debug)]
pub(super) struct AttachSettings {
    pub(super) pid: u32,
    pub(super) threshold: Duration,
    pub(super) stop: bool,
    pub(super) all_threads: bool,
    pub(super) log: Option<LogFormat>,
}
