//! The threads of this layer, which the watchdog starts and joins.

/// A thread of this layer, to be started by the caller.
pub(crate) struct StageThread {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce() + Send>,
}
