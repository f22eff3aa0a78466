//! The server: hyper on a thread and a current-thread runtime of its own, so that it answers while every worker is blocked.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use super::pages::{self, Pages};
use crate::error::Error;
use crate::shared::Shared;
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
                tokio::spawn(serve(listener, Arc::new(Pages::of(shared))));
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

async fn serve(listener: TcpListener, pages: Arc<Pages>) {
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
        connections.push_back(tokio::spawn(connection(stream, pages.clone())));
    }
}

async fn connection(stream: tokio::net::TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request: Request<_>| {
        let response = pages::respond(&pages, request.method(), request.uri().path());
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
