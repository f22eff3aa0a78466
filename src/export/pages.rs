//! The pages: the response to each path, for the server and the router.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Method, Response, StatusCode};

use super::cached::CachedResponse;
use super::page::{HTML as LIVE_PAGE, POLICY};
use super::page_source::PageSource;
use super::profile::window::{self, InvalidWindow, WindowStart};
use super::profile::{self, entries, flamegraph, folded, pprof, speedscope};
use super::threads::{self, ThreadFormat};
use super::{families, incidents, live};

const NOT_FOUND: &str = "not found. The paths are /, /live, /live.html, /live/profile, /metrics, /stalls, \
    /stalls/flamegraph, /stalls/folded, /stalls/speedscope, /debug/pprof/stalls, /threads, /incidents and /healthz.\n";

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
/// The time for which a response to `/threads` is reused. Dumps are limited as well, but the text
/// of 10,000 threads takes some milliseconds by itself.
const THREADS_MAX_AGE: Duration = Duration::from_millis(500);

/// The path of thread dumps.
const THREADS: &str = "/threads";
/// The path of the profile in pprof's format.
const PPROF: &str = "/debug/pprof/stalls";
/// The path of incidents.
const INCIDENTS: &str = "/incidents";

/// The response to a window that is not understood, or asked of a router.
const BAD_WINDOW: &str = "seconds must be 1 to 120, and only pollwatch's own server (listen) waits that long\n";

/// The number of stalls in a response to `/stalls` that does not say how many. One with its stack
/// takes about 15 KB.
const DEFAULT_STALLS: usize = 50;

/// The pages of one watchdog.
pub(super) struct Pages {
    source: Arc<dyn PageSource>,
    live: CachedResponse,
    profile: CachedResponse,
    threads_text: CachedResponse,
    threads_json: CachedResponse,
}

/// The part of a request that the pages depend on.
pub(super) struct PageRequest {
    pub(super) method: Method,
    pub(super) path: Cow<'static, str>,
    pub(super) query: Option<String>,
    /// True if the header `Accept` asks for JSON, and not for text as well.
    pub(super) accepts_json: bool,
}

impl PageRequest {
    pub(super) fn new(
        method: Method,
        path: impl Into<Cow<'static, str>>,
        query: Option<String>,
        headers: &HeaderMap,
    ) -> PageRequest {
        let accepts = |kind| headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|v| v.contains(kind)));
        let accepts_json = accepts(JSON) && !accepts("text/");
        PageRequest { method, path: path.into(), query, accepts_json }
    }

    /// Returns whether the response takes so long that it must not be computed on a thread that
    /// serves other requests.
    pub(super) fn is_slow(&self) -> bool {
        matches!(&*self.path, THREADS | INCIDENTS)
    }

    /// Returns the time window that a profile is asked for, if any.
    fn window(&self) -> Option<Result<Duration, InvalidWindow>> {
        (self.path == PPROF).then(|| window::of_query(self.query.as_deref().unwrap_or_default())).flatten()
    }

    /// Returns the time of a valid window: the response to a GET waits for it, and covers its
    /// stalls.
    pub(super) fn valid_window(&self) -> Option<Duration> {
        let is_read = self.method == Method::GET || self.is_head();
        self.window().and_then(Result::ok).filter(|_| is_read)
    }

    /// Returns whether the response has no body.
    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Returns the form that the request asks for; `None` for a query that is not understood.
    fn format(&self) -> Option<ThreadFormat> {
        threads::format(self.query.as_deref().unwrap_or_default(), self.accepts_json)
    }
}

impl Pages {
    pub(super) fn new(source: Arc<dyn PageSource>) -> Pages {
        Pages {
            source,
            live: CachedResponse::new(LIVE_MAX_AGE),
            profile: CachedResponse::new(PROFILE_MAX_AGE),
            threads_text: CachedResponse::new(THREADS_MAX_AGE),
            threads_json: CachedResponse::new(THREADS_MAX_AGE),
        }
    }

    /// Returns the response to a request. Takes some milliseconds with 1,000 sites.
    pub(super) fn respond(&self, request: &PageRequest) -> Response<Full<Bytes>> {
        let PageRequest { method, path, query, .. } = request;
        if *method != Method::GET && *method != Method::HEAD {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let source = &*self.source;
        match &**path {
            "/" | "/live.html" => with_policy(page(StatusCode::OK, HTML, LIVE_PAGE), POLICY),
            "/live" => fallible(JSON, self.live.get(|| live::json(source))),
            "/live/profile" => fallible(JSON, self.profile.get(|| entries::json(&source.profile()))),
            "/metrics" => page(StatusCode::OK, METRICS, families::text(source)),
            "/stalls" => stalls(source, query.as_deref().unwrap_or_default()),
            "/stalls/flamegraph" => {
                with_policy(page(StatusCode::OK, SVG, flamegraph::svg(&source.profile())), PICTURE_POLICY)
            }
            "/stalls/folded" => folded(source),
            "/stalls/speedscope" => fallible(JSON, speedscope::json(&source.profile())),
            // The server has responded to a valid window.
            PPROF if request.window().is_some() => page(StatusCode::BAD_REQUEST, TEXT, BAD_WINDOW),
            PPROF => pprof(source),
            THREADS => self.threads(request),
            INCIDENTS => self.incidents(request),
            "/healthz" => self.health(request),
            _ => page(StatusCode::NOT_FOUND, TEXT, NOT_FOUND),
        }
    }

    /// Returns the start of a time window, for [`profile_of_window`](Self::profile_of_window).
    pub(super) fn start_window(&self) -> WindowStart {
        WindowStart::new(self.source.profile())
    }

    /// Returns the profile of the time since the start of a window.
    pub(super) fn profile_of_window(&self, start: &WindowStart) -> Response<Full<Bytes>> {
        attached(start.pprof_until(self.source.profile()))
    }

    /// Returns the response to a HEAD for the profile of a window. It waits for nothing, and has no
    /// length, since the profile is not known yet.
    pub(super) fn head_of_window() -> Response<Full<Bytes>> {
        attached(Ok(Vec::new()))
    }

    /// Returns the latest thread dump as text or as JSON.
    fn threads(&self, request: &PageRequest) -> Response<Full<Bytes>> {
        match request.format() {
            Some(ThreadFormat::Text) => fallible(TEXT, self.threads_text.get(|| threads::text(&*self.source))),
            Some(ThreadFormat::Json) => fallible(JSON, self.threads_json.get(|| threads::json(&*self.source))),
            None => page(StatusCode::BAD_REQUEST, TEXT, threads::BAD_FORMAT),
        }
    }

    fn incidents(&self, request: &PageRequest) -> Response<Full<Bytes>> {
        match request.format() {
            Some(format) => fallible(
                if format == ThreadFormat::Json { JSON } else { TEXT },
                incidents::incidents(&*self.source, format),
            ),
            None => page(StatusCode::BAD_REQUEST, TEXT, incidents::BAD_FORMAT),
        }
    }

    /// Returns 200, or 503 with the reasons. A query that is not understood is no reason to end a
    /// service.
    fn health(&self, request: &PageRequest) -> Response<Full<Bytes>> {
        let reasons = self.source.health();
        let mut response = match request.format() {
            Some(ThreadFormat::Json) => fallible(JSON, incidents::health_json(&reasons)),
            _ => page(StatusCode::OK, TEXT, incidents::health_text(&reasons)),
        };
        if !reasons.is_empty() {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}

/// Returns the recent stalls, as many as the parameter `limit` says.
fn stalls(source: &dyn PageSource, query: &str) -> Response<Full<Bytes>> {
    let limit = query.split('&').find_map(|parameter| parameter.strip_prefix("limit="));
    match limit.map_or(Ok(DEFAULT_STALLS), str::parse) {
        Ok(limit) => fallible(JSON, serde_json::to_string(&source.stalls(limit))),
        Err(_) => page(StatusCode::BAD_REQUEST, TEXT, "limit must be a number: /stalls?limit=256\n"),
    }
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
    attached(pprof::gzipped(&source.profile(), &recording))
}

/// Returns a profile as a file that browsers save.
fn attached(profile: std::io::Result<Vec<u8>>) -> Response<Full<Bytes>> {
    let mut response = fallible(BYTES, profile);
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
