//! `/healthz` and `/incidents`, as text or JSON.

use serde::Serialize;

use super::page_source::PageSource;
use super::threads::ThreadFormat;
use crate::model::incident::HealthProblem;

pub(super) const BAD_FORMAT: &str = "the only parameter is format: /incidents?format=text or /incidents?format=json\n";

#[derive(Serialize)]
struct HealthResponse<'a> {
    is_healthy: bool,
    reasons: &'a [HealthProblem],
}

/// Returns the text of `/healthz`: a line for each reason.
pub(super) fn health_text(reasons: &[HealthProblem]) -> String {
    if reasons.is_empty() {
        return "ok\n".into();
    }
    reasons.iter().map(|problem| format!("{}\n", problem.reason)).collect()
}

pub(super) fn health_json(reasons: &[HealthProblem]) -> Result<String, serde_json::Error> {
    serde_json::to_string(&HealthResponse { is_healthy: reasons.is_empty(), reasons })
}

/// Returns the recent incidents. As text they come without their threads.
pub(super) fn incidents(source: &dyn PageSource, format: ThreadFormat) -> Result<String, serde_json::Error> {
    let incidents = source.incidents();
    match format {
        ThreadFormat::Json => serde_json::to_string(&incidents),
        ThreadFormat::Text if incidents.is_empty() => Ok("no incident\n".into()),
        ThreadFormat::Text => Ok(incidents.iter().map(|incident| format!("{incident}\n")).collect()),
    }
}

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_line() {
        assert_eq!(health_text(&[]), "ok\n");
        assert_eq!(health_json(&[]).unwrap(), r#"{"is_healthy":true,"reasons":[]}"#);
        let problem = |runtime: Option<&str>, reason: &str| HealthProblem {
            kind: "workers_blocked",
            runtime: runtime.map(Into::into),
            reason: reason.into(),
        };
        let reasons = [problem(Some("main"), "the first"), problem(None, "the second")];
        assert_eq!(health_text(&reasons), "the first\nthe second\n");
        let json: serde_json::Value = serde_json::from_str(&health_json(&reasons).unwrap()).unwrap();
        assert_eq!(json["is_healthy"], false);
        assert_eq!(json["reasons"][0]["runtime"], "main");
        assert_eq!(json["reasons"][1]["reason"], "the second");
    }
}
