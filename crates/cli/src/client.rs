//! The HTTP client for the server that pollwatch runs inside a program.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::text::clean;

/// The time limit of one request. The server answers within milliseconds, also while every worker
/// of the program is blocked.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The time limit of a request for a thread dump. The server takes up to 2.5 s, and responds to one
/// request at a time.
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);

/// The version of `/live` that this program reads.
const SCHEMA: u64 = 1;

/// Parses the base address of a server, for clap. `HOST:PORT` alone means `http://HOST:PORT`.
pub(crate) fn parse_url(url: &str) -> Result<String, String> {
    let (scheme, host) = url.split_once("://").unwrap_or(("http", url));
    let host = host.trim_end_matches('/');
    match scheme {
        "http" if host.is_empty() => Err("the address is empty".into()),
        "http" => Ok(format!("http://{host}")),
        _ => Err(format!("only http is supported, not {scheme:?}")),
    }
}

/// The reason why a request gave no answer that can be shown.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// The connection was refused, broke, or took too long.
    Unreachable { url: String, source: ureq::Error },
    /// The server answered with another HTTP status than 200.
    Status { url: String, code: u16 },
    /// The answer is not the JSON of a pollwatch server.
    NotPollwatch { url: String },
    /// The answer has a version that this program does not read.
    UnknownSchema { url: String, schema: u64 },
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Part of the text comes from the server.
            FetchError::Unreachable { url, source } => write!(
                f,
                "cannot reach {url}: {}. Is the program running, and was its watchdog started with `listen` at this address?",
                clean(&source.to_string())
            ),
            FetchError::Status { url, code } => {
                write!(f, "{url} answers with HTTP status {code}. Is this the address of pollwatch's server?")
            }
            FetchError::NotPollwatch { url } => {
                write!(f, "{url} does not answer like pollwatch's server. Is the address right?")
            }
            FetchError::UnknownSchema { url, schema } => write!(
                f,
                "{url} answers in schema {schema}, but this program reads schema {SCHEMA}. Install the \
                 pollwatch-cli that has the same version as the library in the program."
            ),
        }
    }
}

impl std::error::Error for FetchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FetchError::Unreachable { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An HTTP client for one server.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
}

impl Client {
    pub(crate) fn new(base: &str) -> Client {
        let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build();
        Client { agent: config.into(), base: base.into() }
    }

    /// Returns the current state of the program: the JSON of `/live`.
    pub(crate) fn live(&self) -> Result<Value, FetchError> {
        let url = format!("{}/live", self.base);
        let body = self.get(&url, TIMEOUT)?;
        let Ok(live) = serde_json::from_str::<Value>(&body) else {
            return Err(FetchError::NotPollwatch { url });
        };
        match live["schema"].as_u64() {
            Some(SCHEMA) => Ok(live),
            Some(schema) => Err(FetchError::UnknownSchema { url, schema }),
            None => Err(FetchError::NotPollwatch { url }),
        }
    }

    /// Returns the thread dump of the program in a format: `text` or `json`.
    pub(crate) fn threads(&self, format: &str) -> Result<String, FetchError> {
        self.get(&format!("{}/threads?format={format}", self.base), DUMP_TIMEOUT)
    }

    fn get(&self, url: &str, timeout: Duration) -> Result<String, FetchError> {
        let unreachable = |source| FetchError::Unreachable { url: self.base.clone(), source };
        let mut response =
            self.agent.get(url).config().timeout_global(Some(timeout)).build().call().map_err(unreachable)?;
        let body = response.body_mut().read_to_string().map_err(unreachable)?;
        match response.status().as_u16() {
            200 => Ok(body),
            code => Err(FetchError::Status { url: url.into(), code }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_url;

    #[test]
    fn an_address_is_completed_to_a_url() {
        for url in ["127.0.0.1:9464", "http://127.0.0.1:9464", "http://127.0.0.1:9464/"] {
            assert_eq!(parse_url(url).as_deref(), Ok("http://127.0.0.1:9464"));
        }
        for wrong in ["", "/", "https://a:1", "http://"] {
            assert!(parse_url(wrong).is_err(), "{wrong}");
        }
    }
}
