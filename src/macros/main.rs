//! The start and the end of a program with `#[pollwatch::main]`.

#[cfg(feature = "server")]
use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};

use super::environment::Environment;
#[cfg(feature = "server")]
use super::environment::Listen;
use super::print;
use crate::error::{Error, ErrorKind};
use crate::measure::entry::current_future::FutureExt;
#[cfg(feature = "tower")]
use crate::measure::entry::unwatched;
use crate::watchdog::Watchdog;

/// The arguments of `#[pollwatch::main]`.
#[derive(Debug)]
pub struct Main {
    name: &'static str,
    threshold: Option<Duration>,
    #[cfg(feature = "server")]
    listen: Option<&'static str>,
}

impl Default for Main {
    fn default() -> Self {
        Main {
            name: "main",
            threshold: None,
            #[cfg(feature = "server")]
            listen: None,
        }
    }
}

#[allow(missing_docs, reason = "the documentation is that of the attribute")]
impl Main {
    pub fn new() -> Main {
        Main::default()
    }

    pub fn name(mut self, name: &'static str) -> Main {
        self.name = name;
        self
    }

    pub fn threshold(mut self, threshold: Duration) -> Main {
        self.threshold = Some(threshold);
        self
    }

    #[cfg(feature = "server")]
    pub fn listen(mut self, address: &'static str) -> Main {
        self.listen = Some(address);
        self
    }

    /// Without the server, the argument is refused when it is compiled.
    #[cfg(not(feature = "server"))]
    pub fn listen(self, _address: &'static str) -> Main {
        self
    }

    #[track_caller]
    pub fn run<F: Future>(self, builder: Builder, body: F) -> F::Output {
        let body = body.watched();
        let name = self.name;
        let program = self.start(builder, |watchdog, mut builder| match watchdog {
            Some(watchdog) => watchdog.build_runtime(name, builder),
            None => builder.build().map_err(Error::build),
        });
        let output = program.runtime.block_on(body);
        program.end();
        output
    }

    #[track_caller]
    pub fn run_local<F: Future>(self, builder: Builder, body: F) -> F::Output {
        let body = body.watched();
        let name = self.name;
        let program = self.start(builder, |watchdog, mut builder| match watchdog {
            Some(watchdog) => watchdog.runtime(name).with_builder(builder).build_local(),
            None => builder.build_local(LocalOptions::default()).map_err(Error::build),
        });
        let output = program.runtime.block_on(body);
        program.end();
        output
    }

    /// Starts the watchdog, and builds the runtime with or without one. Ends the process where that
    /// is not possible.
    fn start<R>(
        self,
        builder: Builder,
        build: impl FnOnce(Option<&Watchdog>, Builder) -> Result<R, Error>,
    ) -> Program<R> {
        let environment = Environment::read(|name| std::env::var_os(name)).unwrap_or_else(|error| fail(&error));
        let watchdog = if environment.is_off { None } else { self.start_watchdog(&environment) };
        #[cfg(feature = "tower")]
        if watchdog.is_none() {
            // It is known already.
            unwatched::settle();
        }
        match build(watchdog.as_ref(), builder) {
            Ok(runtime) => Program { runtime, watchdog },
            Err(error) => fail(&format!("{error:#}")),
        }
    }

    /// Returns `None` where the watchdog cannot be started. The service is more important.
    fn start_watchdog(&self, environment: &Environment) -> Option<Watchdog> {
        let mut builder = Watchdog::builder();
        if let Some(threshold) = environment.threshold.or(self.threshold) {
            builder = builder.threshold(threshold);
        }
        let watchdog = match builder.start() {
            Ok(watchdog) => watchdog,
            Err(error) if error.kind() == ErrorKind::InvalidSetting => fail(&format!("{error:#}")),
            Err(error) => {
                print(&format!("{error:#}. The service starts without pollwatch"));
                return None;
            }
        };
        self.serve(&watchdog, environment);
        watchdog.make_process_wide();
        Some(watchdog)
    }

    /// Starts the server, if one is wanted. Without it the service starts nevertheless.
    #[cfg(feature = "server")]
    fn serve(&self, watchdog: &Watchdog, environment: &Environment) {
        let address: Option<SocketAddr> = match environment.listen {
            Some(Listen::Off) => None,
            Some(Listen::At(address)) => Some(address),
            // The attribute has checked it.
            None => self.listen.and_then(|address| address.parse().ok()),
        };
        if let Some(Err(error)) = address.map(|address| watchdog.serve(address)) {
            print(&format!("{error:#}. The service starts without pollwatch's pages"));
        }
    }

    #[cfg(not(feature = "server"))]
    fn serve(&self, _watchdog: &Watchdog, environment: &Environment) {
        if environment.listen.is_some() {
            print("POLLWATCH_LISTEN is set, but this program was built without pollwatch's feature `server`");
        }
    }
}

/// A program that runs. Its runtime is dropped before its watchdog, also when the main function
/// panics.
struct Program<R> {
    runtime: R,
    watchdog: Option<Watchdog>,
}

impl<R> Program<R> {
    /// Ends the tasks and then the watchdog, so that the last stalls are reported.
    fn end(self) {
        drop(self.runtime);
        if let Some(watchdog) = &self.watchdog {
            watchdog.shutdown();
        }
    }
}

/// Ends the process because of its configuration.
fn fail(text: &str) -> ! {
    print(text);
    std::process::exit(1)
}
