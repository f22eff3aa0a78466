//! The format of log lines.

/// The format of the messages that pollwatch logs.
///
/// All that a message says is also in the fields of its event. A subscriber that writes both for
/// people is easy to read with [`Text`](Self::Text). One that writes JSON would repeat most of the
/// fields in the message: use [`Fields`](Self::Fields).
///
/// ```
/// use pollwatch::{LogFormat, Watchdog};
///
/// // Beside `tracing_subscriber::fmt().json().init()`:
/// let builder = Watchdog::builder().log_format(LogFormat::Fields);
/// # builder.start().unwrap();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogFormat {
    /// The message is a text of up to some lines for a person to read: where, why, and what to do.
    #[default]
    Text,
    /// The message is one short line. The fields have the rest.
    Fields,
}
