//! The environment variables that `#[pollwatch::main]` reads.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use super::duration::parse_duration;
use crate::error::ADDRESS_ADVICE;
use crate::util::threshold_text;
use crate::watchdog::WatchdogBuilder;

/// The settings of the environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Environment {
    /// `POLLWATCH=off`. The other variables are not read then.
    pub(super) is_off: bool,
    /// `POLLWATCH_THRESHOLD`.
    pub(super) threshold: Option<Duration>,
    /// `POLLWATCH_LISTEN`.
    pub(super) listen: Option<Listen>,
}

/// The value of `POLLWATCH_LISTEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    Off,
    At(SocketAddr),
}

impl Environment {
    /// Reads the variables that `get` returns. The error is one line, for the person who has set
    /// the variable.
    pub(super) fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Environment, String> {
        let is_off = variable(&get, "POLLWATCH", |value| match value {
            "off" => Ok(true),
            "on" => Ok(false),
            _ => Err("write off or on".to_owned()),
        })?;
        if is_off == Some(true) {
            return Ok(Environment { is_off: true, ..Environment::default() });
        }
        let listen = |value: &str| match value {
            "off" => Ok(Listen::Off),
            address => address.parse().map(Listen::At).map_err(|_| format!("{ADDRESS_ADVICE}, or off")),
        };
        let threshold = |value: &str| match parse_duration(value)? {
            threshold if WatchdogBuilder::THRESHOLDS.contains(&threshold) => Ok(threshold),
            threshold => Err(threshold_text::out_of_range(threshold, &WatchdogBuilder::THRESHOLDS)),
        };
        Ok(Environment {
            is_off: false,
            threshold: variable(&get, "POLLWATCH_THRESHOLD", threshold)?,
            listen: variable(&get, "POLLWATCH_LISTEN", listen)?,
        })
    }
}

/// Parses a variable, unless it is not set or empty.
fn variable<T>(
    get: impl Fn(&str) -> Option<OsString>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let Some(value) = get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let parsed = match value.to_str() {
        Some(text) => parse(text.trim()),
        None => Err("it is no text".to_owned()),
    };
    parsed.map(Some).map_err(|why| format!("the environment variable {name} is {value:?}: {why}"))
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, String> {
        let value_of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Environment::read(value_of)
    }

    #[test]
    fn variables_have_the_values_that_the_documentation_names() {
        assert_eq!(read(&[]), Ok(Environment::default()));
        let empty = [("POLLWATCH", ""), ("POLLWATCH_THRESHOLD", ""), ("POLLWATCH_LISTEN", "")];
        assert_eq!(read(&empty), Ok(Environment::default()));
        assert_eq!(
            read(&[("POLLWATCH", "on"), ("POLLWATCH_THRESHOLD", " 20ms"), ("POLLWATCH_LISTEN", "[::1]:9464")]),
            Ok(Environment {
                is_off: false,
                threshold: Some(Duration::from_millis(20)),
                listen: Some(Listen::At("[::1]:9464".parse().unwrap())),
            })
        );
        assert_eq!(read(&[("POLLWATCH_LISTEN", "off")]).unwrap().listen, Some(Listen::Off));
        let off = [("POLLWATCH", "off"), ("POLLWATCH_THRESHOLD", "nonsense")];
        assert!(read(&off).unwrap().is_off, "nothing else is read");
    }

    #[test]
    fn nonsense_is_named_with_its_variable_and_its_value() {
        for (name, value, why) in [
            ("POLLWATCH", "maybe", "write off or on"),
            ("POLLWATCH_THRESHOLD", "10", "write a number with the unit us, ms or s, such as 10ms"),
            ("POLLWATCH_THRESHOLD", "0ms", "the threshold must be from 100µs to 3600s, not 0ns; 10ms suits a service"),
            (
                "POLLWATCH_THRESHOLD",
                "3601s",
                "the threshold must be from 100µs to 3600s, not 3601s; 10ms suits a service",
            ),
            ("POLLWATCH_LISTEN", "9464", "write an IP address and a port, such as 127.0.0.1:9464, or off"),
            ("POLLWATCH_LISTEN", "localhost:9464", "write an IP address and a port, such as 127.0.0.1:9464, or off"),
        ] {
            let error = format!("the environment variable {name} is {value:?}: {why}");
            assert_eq!(read(&[(name, value)]), Err(error));
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_value_that_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let error = Environment::read(|_| Some(OsString::from_vec(vec![0xff, b'\n']))).unwrap_err();
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
