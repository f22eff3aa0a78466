//! The settings of an attach.

use std::fmt;
use std::net::ToSocketAddrs;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::handle::Attached;
use super::settings::AttachSettings;
use crate::error::Error;
use crate::export::listen_address::ListenAddress;
use crate::model::log_format::LogFormat;
use crate::model::stall::Stall;
use crate::report::dispatch::OnStall;
use crate::util::threshold_text;

/// The settings with which another process is watched. [`start`](Self::start) attaches to it.
///
/// ```no_run
/// let attach = pollwatch::attach::Attach::new(4711).on_stall(|stall| println!("{stall}"));
/// let attached = attach.start()?;
/// # drop(attached);
/// # Ok::<(), pollwatch::Error>(())
/// ```
#[must_use = "no process is watched until `start` is called"]
pub struct Attach {
    pub(super) settings: AttachSettings,
    pub(super) on_stall: Option<OnStall>,
    pub(super) listen: Option<ListenAddress>,
}

impl fmt::Debug for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attach { settings, on_stall, listen } = self;
        let mut debug = f.debug_struct("Attach");
        debug.field("settings", settings).field("on_stall", &on_stall.is_some()).field("listen", listen).finish()
    }
}

impl Attach {
    /// The default threshold: 10 ms.
    pub const DEFAULT_THRESHOLD: Duration = Duration::from_millis(10);
    /// The thresholds that [`start`](Self::start) accepts: 1 ms to 1 hour.
    pub const THRESHOLDS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

    /// Makes the settings for the process with this id, as `/proc` has it here.
    ///
    /// ```
    /// let attach = pollwatch::attach::Attach::new(std::process::id());
    /// ```
    pub fn new(pid: u32) -> Attach {
        let settings = AttachSettings {
            pid,
            threshold: Attach::DEFAULT_THRESHOLD,
            stop: true,
            all_threads: false,
            log: Some(LogFormat::default()),
        };
        Attach { settings, on_stall: None, listen: None }
    }

    /// Sets the threshold: a thread that is blocked for at least this long is a stall. Defaults to
    /// [`DEFAULT_THRESHOLD`](Self::DEFAULT_THRESHOLD). [`start`](Self::start) accepts those in
    /// [`THRESHOLDS`](Self::THRESHOLDS). The threads of the runtimes are read four times in each
    /// threshold.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let attach = pollwatch::attach::Attach::new(4711).threshold(Duration::from_millis(50));
    /// ```
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.settings.threshold = threshold;
        self
    }

    /// Sets whether a thread that runs may be stopped for a moment, at most some 1 ms, to read its
    /// stack. Defaults to `true`. Without it only threads that wait are found to be blocked.
    ///
    /// ```
    /// let attach = pollwatch::attach::Attach::new(4711).stop(false);
    /// ```
    pub fn stop(mut self, stop: bool) -> Self {
        self.settings.stop = stop;
        self
    }

    /// Sets whether threads outside of all runtimes are watched as well. Defaults to `false`. Of
    /// those, threads are reported that wait in a system call for the threshold which is neither a
    /// wait for a lock nor for several descriptors. All such stalls are only
    /// [suspected](crate::Certainty::Suspected), since the thread may be meant to wait. It serves
    /// for programs without symbols, whose runtimes cannot be recognised.
    ///
    /// ```
    /// let attach = pollwatch::attach::Attach::new(4711).all_threads(true);
    /// ```
    pub fn all_threads(mut self, all_threads: bool) -> Self {
        self.settings.all_threads = all_threads;
        self
    }

    /// Sets a function that is called with each report of a stall, on a thread of its own: when it
    /// starts, after 2, 4, 8 ... thresholds, and at its end.
    ///
    /// ```
    /// let attach = pollwatch::attach::Attach::new(4711).on_stall(|stall| println!("{stall}"));
    /// ```
    pub fn on_stall(mut self, callback: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Box::new(callback));
        self
    }

    /// Serves the pages of a watchdog at this address: `/`, `/metrics`, `/stalls`, `/threads`,
    /// `/healthz` and the profiles. [`Attached::local_addr`] returns the port for port 0. The
    /// address is what [`WatchdogBuilder::listen`](crate::WatchdogBuilder::listen) takes.
    ///
    /// ```
    /// let attach = pollwatch::attach::Attach::new(4711).listen("127.0.0.1:9464");
    /// ```
    pub fn listen(mut self, address: impl ToSocketAddrs + fmt::Debug) -> Self {
        self.listen = Some(ListenAddress::new(address));
        self
    }

    /// Sets whether stalls are logged by `tracing` (target `pollwatch::stall`). Defaults to `true`.
    ///
    /// ```
    /// let attach = pollwatch::attach::Attach::new(4711).log(false);
    /// ```
    pub fn log(mut self, log: bool) -> Self {
        self.settings.log = log.then(LogFormat::default);
        self
    }

    /// Checks the settings without attaching, as [`start`](Self::start) does first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSetting`](crate::ErrorKind::InvalidSetting) where the threshold is none
    /// of [`THRESHOLDS`](Self::THRESHOLDS).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let attach = pollwatch::attach::Attach::new(4711).threshold(Duration::ZERO);
    /// assert!(attach.validate().is_err());
    /// ```
    pub fn validate(&self) -> Result<(), Error> {
        let threshold = self.settings.threshold;
        match Attach::THRESHOLDS.contains(&threshold) {
            true => Ok(()),
            false => Err(Error::invalid(threshold_text::out_of_range(threshold, &Attach::THRESHOLDS))),
        }
    }

    /// Attaches to the process, and starts the threads that watch it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Process`](crate::ErrorKind::Process) where the process does not exist or may
    /// not be read. The other kinds are those of
    /// [`WatchdogBuilder::start`](crate::WatchdogBuilder::start).
    ///
    /// ```
    /// use pollwatch::{ErrorKind, attach::Attach};
    ///
    /// let error = Attach::new(u32::MAX).start().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Process);
    /// ```
    pub fn start(self) -> Result<Attached, Error> {
        self.validate()?;
        let Attach { settings, on_stall, listen } = self;
        Attached::start(settings, on_stall, listen)
    }
}
