//! Values of the command line that clap does not parse.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pollwatch::attach::Attach;

/// Parses the threshold. The library says which ones it accepts.
pub(super) fn parse_threshold(text: &str) -> Result<Duration, String> {
    let threshold = parse_time(text)?;
    let is_valid = Attach::new(0).threshold(threshold).validate();
    is_valid.map(|()| threshold).map_err(|error| error.to_string())
}

/// Parses a duration that is longer than zero.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        duration if duration.is_zero() => Err("the time must be longer than zero".into()),
        duration => Ok(duration),
    }
}

/// Parses a number with a unit, such as `10ms`, `1.5s`, `2m` or `1h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_alphabetic() || c == 'µ').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let scale = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "" => return Err("the unit is missing: 10ms, 1.5s, 2m, 1h".into()),
        other => return Err(format!("unknown unit {other:?}: us, ms, s, m or h")),
    };
    let is_plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number = number.trim().parse::<f64>().ok().filter(|_| is_plain);
    let number = number.ok_or("the number is missing: 10ms, 1.5s, 2m, 1h")?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| "this is longer than any duration".into())
}

/// Parses the address that the server listens on.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:9464".into())
}

/// The file that a profile is written to, with the format that its extension says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProfileFile {
    pub(crate) path: PathBuf,
    pub(crate) format: ProfileFormat,
}

/// A format of profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProfileFormat {
    /// One line for each stack, which flame graph tools read.
    Folded,
    /// The JSON that speedscope.app reads.
    Speedscope,
}

/// Parses the path of a profile.
pub(super) fn parse_profile_file(text: &str) -> Result<ProfileFile, String> {
    let path = PathBuf::from(text);
    let extension = Path::new(text).extension().and_then(|extension| extension.to_str());
    let format = match extension {
        Some("folded" | "txt") => ProfileFormat::Folded,
        Some("json" | "speedscope") => ProfileFormat::Speedscope,
        _ => return Err("the extension says the format: .folded (flame graph tools) or .json (speedscope.app)".into()),
    };
    Ok(ProfileFile { path, format })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn durations_have_a_unit() {
        let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
        for (text, expected) in [("10ms", 10), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000), ("2000us", 2)] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        for wrong in
            ["", "10", "ms", "-1s", "1e3s", "10 parsecs", "0s", "99999999999999999999h", "NaNs", "infs", "1.2.3s"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_error_of_a_threshold_names_the_range() {
        let expected = |threshold: &str| {
            Err(format!("the threshold must be from 1ms to 3600s, not {threshold}; 10ms suits a service"))
        };
        for (text, threshold) in [("0ms", "0ns"), ("10us", "10µs"), ("2h", "7200s")] {
            assert_eq!(parse_threshold(text), expected(threshold));
        }
        assert_eq!((parse_threshold("1ms"), parse_threshold("1h")), (Ok(MS), Ok(3_600_000 * MS)));
        assert_eq!(parse_threshold("10"), Err("the unit is missing: 10ms, 1.5s, 2m, 1h".into()));
    }

    #[test]
    fn addresses_have_an_ip_and_a_port() {
        assert!(parse_address("127.0.0.1:9464").is_ok());
        assert!(["9464", ":9464", "127.0.0.1"].iter().all(|wrong| parse_address(wrong).is_err()));
    }

    #[test]
    fn the_extension_of_a_profile_says_its_format() {
        let format = |text| parse_profile_file(text).map(|file| file.format).ok();
        assert_eq!(format("a/stalls.folded"), Some(ProfileFormat::Folded));
        assert_eq!(format("stalls.speedscope.json"), Some(ProfileFormat::Speedscope));
        assert_eq!(
            (format("stalls"), format("stalls.svg"), format("a.json/")),
            (None, None, Some(ProfileFormat::Speedscope))
        );
    }
}
