//! Durations as people write them: `10ms`, `1.5s`, `500us`.
//!
//! `pollwatch` has a copy of this file for its environment variables, because a crate of macros
//! exports nothing else. A test of `pollwatch` compares the two.

use std::time::Duration;

/// Parses a duration: a number and the unit `us`, `ms` or `s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit.trim_start() {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err("write a number with the unit us, ms or s, such as 10ms"),
    };
    let number: f64 = number.parse().map_err(|_| "write a number with the unit us, ms or s, such as 10ms")?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "this is longer than any duration")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, nanos) in [
            ("10ms", 10_000_000),
            (" 1.5 s ", 1_500_000_000),
            ("500us", 500_000),
            ("500µs", 500_000),
            (".5ms", 500_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "10", "ms", "-1ms", "10 m", "10msec", "1e3ms", "1.2.3s", "inf s", "NaNms", "10ms20", "9e99s", "１ms"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration(&format!("{}s", "9".repeat(400))).is_err());
    }
}
