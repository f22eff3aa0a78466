//! The pages: what is answered to which path, whoever serves it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode};

use super::kept::Kept;
use super::page::{HTML as LIVE_PAGE, POLICY};
use super::profile::{self, entries, flamegraph, folded, pprof, speedscope};
use super::{families, health, live};
use crate::util::lock;
use crate::watchdog::WatchdogState;

/// The pages but for `/`, which is the same as `/live.html`: a router of the user's has a page of its own there.
#[cfg(feature = "axum")]
pub(crate) const PATHS: [&str; 10] = [
    "/live",
    "/live.html",
    "/live/profile",
    "/metrics",
    "/stalls",
    "/stalls/flamegraph",
    "/stalls/folded",
    "/stalls/speedscope",
    "/debug/pprof/stalls",
    "/healthz",
];

const NOT_FOUND: &str = "not found: /, /live, /live.html, /live/profile, /metrics, /stalls, /stalls/flamegraph, /stalls/folded, /stalls/speedscope, \
    /debug/pprof/stalls and /healthz are served\n";

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const SVG: &str = "image/svg+xml; charset=utf-8";
/// A picture has a style, and nothing else.
const PICTURE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
const BYTES: &str = "application/octet-stream";

/// Pages that are open at a time are answered with the same, for so long.
const LIVE_KEPT: Duration = Duration::from_millis(250);
/// As above: it is larger, and asked for less often.
const PROFILE_KEPT: Duration = Duration::from_secs(1);

/// What answers.
pub(crate) struct Pages {
    shared: Arc<WatchdogState>,
    live: Kept,
    profile: Kept,
}

impl Pages {
    pub(crate) fn of(shared: Arc<WatchdogState>) -> Pages {
        Pages { shared, live: Kept::for_time(LIVE_KEPT), profile: Kept::for_time(PROFILE_KEPT) }
    }
}

/// The answer to a request; some milliseconds with 1,000 sites.
pub(crate) fn respond(pages: &Pages, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let shared = &*pages.shared;
    if method != Method::GET && method != Method::HEAD {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/" | "/live.html" => guarded(page(StatusCode::OK, HTML, LIVE_PAGE), POLICY),
        "/live" => fallible(JSON, pages.live.get(|| live::json(shared))),
        "/live/profile" => fallible(JSON, pages.profile.get(|| entries::json(&profile(shared)))),
        "/metrics" => page(StatusCode::OK, METRICS, families::text(shared)),
        "/stalls" => stalls(shared),
        "/stalls/flamegraph" => guarded(page(StatusCode::OK, SVG, flamegraph::svg(&profile(shared))), PICTURE_POLICY),
        "/stalls/folded" => {
            let mut response = page(StatusCode::OK, TEXT, folded::text(&profile(shared)));
            response.headers_mut().insert("x-unit", HeaderValue::from_static(folded::UNIT));
            response
        }
        "/stalls/speedscope" => fallible(JSON, speedscope::json(&profile(shared))),
        "/debug/pprof/stalls" => pprof(shared),
        "/healthz" => match health::complaints(shared) {
            complaints if complaints.is_empty() => page(StatusCode::OK, TEXT, "ok\n"),
            complaints => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, complaints.join("\n") + "\n"),
        },
        _ => page(StatusCode::NOT_FOUND, TEXT, NOT_FOUND),
    }
}

fn stalls(shared: &WatchdogState) -> Response<Full<Bytes>> {
    let recent = lock(&shared.stalls).recent();
    fallible(JSON, serde_json::to_string(&recent))
}

fn profile(shared: &WatchdogState) -> Vec<profile::Entry> {
    lock(&shared.profile).entries()
}

fn pprof(shared: &WatchdogState) -> Response<Full<Bytes>> {
    let lasted = shared.started.elapsed();
    let begun = SystemTime::now().checked_sub(lasted).unwrap_or(SystemTime::UNIX_EPOCH);
    let origin = pprof::Origin { program: profile::program(), begun, lasted };
    let mut response = fallible(BYTES, pprof::gzipped(&profile(shared), &origin));
    if response.status() == StatusCode::OK {
        let name = HeaderValue::from_static("attachment; filename=\"stalls.pb.gz\"");
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    response
}

fn fallible<E: std::fmt::Display>(kind: &'static str, body: Result<impl Into<Bytes>, E>) -> Response<Full<Bytes>> {
    match body {
        Ok(body) => page(StatusCode::OK, kind, body),
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The pages name what the application named.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// With a policy of what the document may do.
fn guarded(mut response: Response<Full<Bytes>>, policy: &'static str) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
