//! `/threads`: the thread dump as text or JSON.

use std::convert::Infallible;

use super::page_source::PageSource;

/// The form of a thread dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadFormat {
    Text,
    Json,
}

pub(super) const BAD_FORMAT: &str = "the only parameter is format: /threads?format=text or /threads?format=json\n";

/// Returns the form that a query asks for, or the one by the header `Accept`. `None` for a query
/// that is not understood.
pub(super) fn format(query: &str, accepts_json: bool) -> Option<ThreadFormat> {
    match query {
        "" if accepts_json => Some(ThreadFormat::Json),
        "" | "format=text" => Some(ThreadFormat::Text),
        "format=json" => Some(ThreadFormat::Json),
        _ => None,
    }
}

pub(super) fn text(source: &dyn PageSource) -> Result<String, Infallible> {
    Ok(source.threads().to_string())
}

pub(super) fn json(source: &dyn PageSource) -> Result<String, serde_json::Error> {
    serde_json::to_string(&*source.threads())
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_query_comes_before_the_header() {
        assert_eq!(format("", false), Some(ThreadFormat::Text));
        assert_eq!(format("", true), Some(ThreadFormat::Json));
        assert_eq!(format("format=text", true), Some(ThreadFormat::Text));
        assert_eq!(format("format=json", false), Some(ThreadFormat::Json));
        for bad in ["format=xml", "limit=3", "format=json&x", "format"] {
            assert_eq!(format(bad, true), None, "{bad}");
        }
    }
}
