//! The server: hyper on a thread and a current-thread runtime of its own, so that it answers while every worker is blocked.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use super::profile::{self, flamegraph, folded, pprof, speedscope};
use super::{families, health};
use crate::error::Error;
use crate::shared::Shared;
use crate::util::lock;
use crate::watchdog::Worker;

/// A request's head must be there in this time, from the connection's begin or the last response on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections served at a time. One more, and the oldest is closed: idle ones cannot keep a scraper out.
const MAX_CONNECTIONS: usize = 64;
/// A connection ends after this, whatever it does.
const MAX_LIFE: Duration = Duration::from_secs(300);
/// The most that is read of a head.
const MAX_HEAD: usize = 16 * 1024;
/// After a failed accept (no descriptors left, as a rule).
const BACK_OFF: Duration = Duration::from_millis(100);

/// A running server; it stops when this is dropped.
pub(crate) struct Server {
    addr: SocketAddr,
    _stop: oneshot::Sender<Infallible>,
}

impl Server {
    /// Binds on the calling thread, serves on another.
    pub(crate) fn start(addr: SocketAddr, shared: Arc<Shared>) -> Result<(Server, Worker), Error> {
        let bind = || {
            let listener = TcpListener::bind(addr)?;
            listener.set_nonblocking(true)?;
            let addr = listener.local_addr()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok((listener, addr, runtime))
        };
        let (listener, bound, runtime) = bind().map_err(|source| Error::listen(addr, source))?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let worker = Worker::start("pollwatch-http", move || {
            runtime.block_on(async {
                tokio::spawn(serve(listener, shared));
                // Ends when the server is dropped; the runtime then drops what it serves.
                let _ = stopped.await;
            });
        })?;
        Ok((Server { addr: bound, _stop: stop }, worker))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return crate::report::log::cannot(&format!("pollwatch's server cannot listen: {error}")),
    };
    let mut connections = std::collections::VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        connections.retain(|c: &tokio::task::JoinHandle<()>| !c.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tokio::spawn(connection(stream, shared.clone())));
    }
}

async fn connection(stream: tokio::net::TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let response = respond(&shared, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Errors are the peer's: resets, time-outs, malformed requests.
    let _ = tokio::time::timeout(MAX_LIFE, connection).await;
}

const NOT_FOUND: &str = "not found: /, /metrics, /stalls, /stalls/flamegraph, /stalls/folded, /stalls/speedscope, \
    /debug/pprof/stalls and /healthz are served\n";

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const SVG: &str = "image/svg+xml; charset=utf-8";
const BYTES: &str = "application/octet-stream";

fn respond<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => page(StatusCode::OK, HTML, include_str!("index.html")),
        "/metrics" => page(StatusCode::OK, METRICS, families::text(shared)),
        "/stalls" => stalls(shared),
        "/stalls/flamegraph" => page(StatusCode::OK, SVG, flamegraph::svg(&profile(shared))),
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

fn stalls(shared: &Shared) -> Response<Full<Bytes>> {
    let recent = lock(&shared.book).recent();
    fallible(JSON, serde_json::to_string(&recent))
}

fn profile(shared: &Shared) -> Vec<profile::Entry> {
    lock(&shared.profile).entries()
}

fn pprof(shared: &Shared) -> Response<Full<Bytes>> {
    let lasted = shared.started.elapsed();
    let begun = SystemTime::now().checked_sub(lasted).unwrap_or(SystemTime::UNIX_EPOCH);
    let program = std::env::current_exe().ok();
    let program = program.as_ref().and_then(|p| p.file_name()).map(|name| name.to_string_lossy().into_owned());
    let origin = pprof::Origin { program: program.unwrap_or_default(), begun, lasted };
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
