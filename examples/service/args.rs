//! The command line, parsed without a crate: it has five flags.

use std::net::SocketAddr;
use std::time::Duration;

pub(crate) const HELP: &str = "\
An axum service with two routes that block the event loop, and their fixed versions, watched by pollwatch.

usage: cargo run --release --example service -- [flags]

  --listen ADDR   address of pollwatch's pages         (127.0.0.1:9464; port 0: any free port)
  --serve ADDR    address of the service               (127.0.0.1:8080; port 0: any free port)
  --seconds N     duration of the load on each route   (3)
  --once          exit after the load, do not wait for Ctrl-C
  --no-load       generate no load: use your own client
  --help          this text
";

pub(crate) struct Args {
    pub(crate) listen: SocketAddr,
    pub(crate) serve: SocketAddr,
    pub(crate) duration: Duration,
    pub(crate) once: bool,
    pub(crate) load: bool,
}

impl Args {
    /// Returns `None` for `--help`. An error is a sentence for the user.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
        let mut args = Args {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            serve: SocketAddr::from(([127, 0, 0, 1], 8080)),
            duration: Duration::from_secs(3),
            once: false,
            load: true,
        };
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--listen" => args.listen = address(&flag, &value()?)?,
                "--serve" => args.serve = address(&flag, &value()?)?,
                "--seconds" => args.duration = seconds(&flag, &value()?)?,
                "--once" => args.once = true,
                "--no-load" => args.load = false,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown flag {flag:?}")),
            }
        }
        if args.once && !args.load {
            return Err("--once with --no-load leaves nothing to do".into());
        }
        Ok(Some(args))
    }
}

fn address(flag: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{flag} needs an address and a port, such as 127.0.0.1:9464, not {text:?}"))
}

fn seconds(flag: &str, text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(n @ 1..=3600) => Ok(Duration::from_secs(n)),
        _ => Err(format!("{flag} needs a whole number from 1 to 3600, not {text:?}")),
    }
}
