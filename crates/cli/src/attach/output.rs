//! The standard output of `pollwatch attach`: lines for a person, or one JSON object a line.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use tracing::Level;

use crate::text::clean;

/// The escape sequences of a terminal.
const RESET: &str = "\u{1b}[0m";
const DIM: &str = "\u{1b}[2m";
const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const GREEN: &str = "\u{1b}[32m";

/// The standard output. All threads write whole lines.
pub(super) struct Output {
    has_colors: bool,
    is_json: bool,
    /// What is to be printed, until it is known what comes first. Stalls may be reported before
    /// the program knows that it is attached.
    held: Mutex<Option<String>>,
    /// True once the reader has closed the pipe, or nothing else can be written.
    is_closed: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Output {
    /// Returns the output. Colours are for terminals whose user has not set `NO_COLOR`
    /// (<https://no-color.org>).
    pub(super) fn new(is_json: bool) -> Output {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            has_colors: io::stdout().is_terminal() && !is_refused,
            is_json,
            held: Mutex::new(Some(String::new())),
            is_closed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Returns true if nobody reads the output any more. A reader that closes its pipe is noticed
    /// also while nothing is printed.
    pub(super) fn has_no_reader(&self) -> bool {
        let stdout = io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let is_polled = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok();
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        self.is_closed() || is_polled && polled[0].revents().intersects(gone)
    }

    /// Returns true if the output can no longer be written.
    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Returns the error that closed the output. A reader that closed its pipe is none.
    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Prints the first JSON object, if there is one, and then all that was held back.
    pub(super) fn begin(&self, first: Option<&Value>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let first = first.map(|value| format!("{value}\n")).unwrap_or_default();
        self.write_now(&(first + &held.take().unwrap_or_default()));
    }

    /// Prints one JSON object.
    pub(super) fn json(&self, value: &Value) {
        self.write(&format!("{value}\n"));
    }

    /// Prints a message of the log. Its further lines are indented.
    pub(super) fn log(&self, level: Level, message: &str) {
        let time = utc(SystemTime::now());
        let mut lines = message.trim_end().lines().map(clean);
        let first = lines.next().unwrap_or_default();
        let mut text = match self.has_colors {
            true => format!("{DIM}{time}{RESET} {}{level}{RESET} {BOLD}{first}{RESET}\n", color(level)),
            false => format!("{time} {level} {first}\n"),
        };
        for line in lines {
            match self.has_colors && line.trim_start().starts_with("advice:") {
                true => text.push_str(&format!("{GREEN}{line}{RESET}\n")),
                false => text.push_str(&format!("{line}\n")),
            }
        }
        self.write(&text);
    }

    /// Prints a text of whole lines.
    pub(super) fn text(&self, text: &str) {
        let lines: String = text.lines().map(|line| clean(line) + "\n").collect();
        self.write(&lines);
    }

    fn write(&self, text: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            Some(held) => held.push_str(text),
            None => self.write_now(text),
        }
    }

    fn write_now(&self, text: &str) {
        if self.is_closed() || text.is_empty() {
            return;
        }
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            self.is_closed.store(true, Ordering::Relaxed);
            // `pollwatch attach .. | head` closes the pipe after some lines.
            if error.kind() != io::ErrorKind::BrokenPipe {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
    }
}

fn color(level: Level) -> &'static str {
    match level {
        Level::ERROR => RED,
        Level::WARN => YELLOW,
        _ => DIM,
    }
}

/// Formats a moment as `2026-01-31T23:59:59.123Z`.
pub(super) fn utc(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Returns year, month and day of a number of days since 1970, by the algorithm `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>). Its years start in
/// March, so that the day that a leap year adds is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_formatted_by_the_calendar() {
        let formatted = |seconds: u64| utc(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7));
        assert_eq!(formatted(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(formatted(951_782_399), "2000-02-28T23:59:59.007Z");
        assert_eq!(formatted(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(formatted(951_868_800), "2000-03-01T00:00:00.007Z");
        assert_eq!(formatted(1_795_886_916), "2026-11-28T17:28:36.007Z");
        assert_eq!(formatted(4_107_542_399), "2100-02-28T23:59:59.007Z");
        assert_eq!(formatted(4_107_542_400), "2100-03-01T00:00:00.007Z", "2100 is no leap year");
    }
}
