//! The pages: the response to each path, for the server and the router.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode};

use super::cached::CachedResponse;
use super::page::{HTML as LIVE_PAGE, POLICY};
use super::page_source::PageSource;
use super::profile::{self, entries, flamegraph, folded, pprof, speedscope};
use super::{families, health, live};

const NOT_FOUND: &str = "not found. The paths are /, /live, /live.html, /live/profile, /metrics, /stalls, \
    /stalls/flamegraph, /stalls/folded, /stalls/speedscope, /debug/pprof/stalls and /healthz.\n";

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const SVG: &str = "image/svg+xml; charset=utf-8";
/// The policy of an SVG picture: inline styles only.
const PICTURE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
const BYTES: &str = "application/octet-stream";

/// The time for which a response to `/live` is reused, however many pages are open.
const LIVE_MAX_AGE: Duration = Duration::from_millis(250);
/// The time for which a response to `/live/profile` is reused. It is larger, and requested less
/// often.
const PROFILE_MAX_AGE: Duration = Duration::from_secs(1);

/// The pages of one watchdog.
pub(super) struct Pages {
    source: Arc<dyn PageSource>,
    live: CachedResponse,
    profile: CachedResponse,
}

impl Pages {
    pub(super) fn new(source: Arc<dyn PageSource>) -> Pages {
        Pages { source, live: CachedResponse::new(LIVE_MAX_AGE), profile: CachedResponse::new(PROFILE_MAX_AGE) }
    }

    /// Returns the response to a request. Takes some milliseconds with 1,000 sites.
    pub(super) fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let source = &*self.source;
        match path {
            "/" | "/live.html" => with_policy(page(StatusCode::OK, HTML, LIVE_PAGE), POLICY),
            "/live" => fallible(JSON, self.live.get(|| live::json(source))),
            "/live/profile" => fallible(JSON, self.profile.get(|| entries::json(&source.profile()))),
            "/metrics" => page(StatusCode::OK, METRICS, families::text(source)),
            "/stalls" => fallible(JSON, serde_json::to_string(&source.stalls())),
            "/stalls/flamegraph" => {
                with_policy(page(StatusCode::OK, SVG, flamegraph::svg(&source.profile())), PICTURE_POLICY)
            }
            "/stalls/folded" => folded(source),
            "/stalls/speedscope" => fallible(JSON, speedscope::json(&source.profile())),
            "/debug/pprof/stalls" => pprof(source),
            "/healthz" => health(source),
            _ => page(StatusCode::NOT_FOUND, TEXT, NOT_FOUND),
        }
    }
}

fn health(source: &dyn PageSource) -> Response<Full<Bytes>> {
    let unhealthy = health::unhealthy_runtimes(&source.blocked_workers(), source.status().unhealthy_after);
    if unhealthy.is_empty() {
        return page(StatusCode::OK, TEXT, "ok\n");
    }
    page(StatusCode::SERVICE_UNAVAILABLE, TEXT, unhealthy.join("\n") + "\n")
}

fn folded(source: &dyn PageSource) -> Response<Full<Bytes>> {
    let mut response = page(StatusCode::OK, TEXT, folded::text(&source.profile()));
    response.headers_mut().insert("x-unit", HeaderValue::from_static(folded::UNIT));
    response
}

fn pprof(source: &dyn PageSource) -> Response<Full<Bytes>> {
    let duration = source.status().uptime;
    let start = SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH);
    let recording = pprof::Recording { program: profile::program(), start, duration };
    let mut response = fallible(BYTES, pprof::gzipped(&source.profile(), &recording));
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
    // The pages contain names that the application chose.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Adds a `Content-Security-Policy`.
fn with_policy(mut response: Response<Full<Bytes>>, policy: &'static str) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
