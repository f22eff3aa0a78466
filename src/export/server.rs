//! The server: hyper on a thread and a current-thread runtime of its own, so that it responds while
//! every worker is blocked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};

use super::listen_address::ListenAddress;
use super::page_source::PageSource;
use super::pages::{PageRequest, Pages};
use crate::Error;

/// The time within which the head of a request must arrive, counted from the connection's start or
/// the previous response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of connections served at a time. For one more, the connection that has been idle
/// longest is closed, so that idle connections cannot keep a scraper out.
const MAX_CONNECTIONS: usize = 64;
/// A connection that was opened or used more recently than this is not closed for a newer one,
/// which waits instead. Many connections at once cannot close each other before they are served.
const MIN_IDLE: Duration = Duration::from_millis(100);
/// The number of connections that may wait to be accepted. Beyond it the kernel drops new ones, and
/// their peers notice only after seconds.
const BACKLOG: u32 = 1024;
/// The longest lifetime of a connection, also of one that is in use.
const MAX_LIFETIME: Duration = Duration::from_secs(300);
/// The size to which the head of a request is limited.
const MAX_HEAD: usize = 16 * 1024;
/// The number of slow responses that are computed at a time, in the whole process.
const SLOW_RESPONSES: usize = 1;
/// The number of profiles of a time window that are recorded at a time, in the whole process. Each
/// keeps the profile of its start.
const MAX_WINDOWS: usize = 4;
/// The name of the threads of the server.
pub(crate) const THREAD_NAME: &str = "pollwatch-http";
/// The pause after a failed accept, which usually means that no descriptors are left.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// A handle of the server, which stops when the handle is dropped.
pub(crate) struct Server {
    addr: SocketAddr,
    _stop: oneshot::Sender<Infallible>,
}

impl Server {
    /// Binds the address, and returns the handle and a function that serves until the handle is
    /// dropped.
    pub(crate) fn bind(
        address: &ListenAddress,
        source: Arc<dyn PageSource>,
    ) -> Result<(Server, impl FnOnce() + Send + 'static), Error> {
        let bind = |addr: SocketAddr| {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // The standard library sets it, too: an address can be bound right after its last use.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            Ok((addr, socket))
        };
        let (addr, socket) = address.bind(bind)?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = ServerRuntime(Some(runtime.map_err(Error::build_server)?));
        let listening = {
            let _entered = runtime.get().enter();
            socket.listen(BACKLOG).and_then(|listener| listener.local_addr().map(|bound| (listener, bound)))
        };
        let (listener, bound) = listening.map_err(|source| address.refused(addr, source))?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let run = move || {
            runtime.into_inner().block_on(async {
                tokio::spawn(serve(listener, Arc::new(Pages::new(source))));
                // Resolves when the handle is dropped. The runtime then drops its connections.
                let _ = stopped.await;
            });
        };
        Ok((Server { addr: bound, _stop: stop }, run))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

/// The runtime of the server. It may be dropped where the server cannot start, on a thread of an
/// application's runtime. There tokio's own drop panics, because it would wait.
struct ServerRuntime(Option<Runtime>);

impl ServerRuntime {
    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("the runtime is there until it is dropped")
    }

    fn into_inner(mut self) -> Runtime {
        self.0.take().expect("the runtime is there until it is dropped")
    }
}

impl Drop for ServerRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let (start, mut connections) = (Instant::now(), Vec::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_BACK_OFF).await;
            continue;
        };
        close_idlest(&mut connections, start).await;
        let last_used = Arc::new(LastUsed { start, nanos: AtomicU64::new(0) });
        last_used.set();
        let task = tokio::spawn(serve_connection(stream, pages.clone(), last_used.clone()));
        connections.push(Connection { task, last_used });
    }
}

/// The moment at which a connection was opened or last sent a request.
struct LastUsed {
    start: Instant,
    /// Nanoseconds since `start`.
    nanos: AtomicU64,
}

impl LastUsed {
    fn set(&self) {
        self.nanos.store(self.start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

struct Connection {
    task: tokio::task::JoinHandle<()>,
    last_used: Arc<LastUsed>,
}

/// Returns once one more connection may be served; closes the one that is idle longest if needed.
async fn close_idlest(connections: &mut Vec<Connection>, start: Instant) {
    loop {
        connections.retain(|connection| !connection.task.is_finished());
        let used = connections.iter().map(|connection| connection.last_used.get()).enumerate();
        let Some((index, last_used)) = used.min_by_key(|(_, last_used)| *last_used) else { return };
        if connections.len() < MAX_CONNECTIONS {
            return;
        }
        let idle = start.elapsed().saturating_sub(last_used);
        if idle >= MIN_IDLE {
            connections.swap_remove(index).task.abort();
            return;
        }
        tokio::time::sleep(MIN_IDLE - idle).await;
    }
}

/// Responds on this thread, or on one of its own if the response takes long. The pool of the
/// runtime is not used, because it panics where no thread can be started.
async fn respond(pages: Arc<Pages>, request: PageRequest) -> Response<Full<Bytes>> {
    static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(SLOW_RESPONSES);
    if let Some(window) = request.valid_window() {
        if request.is_head() {
            return Pages::head_of_window();
        }
        return respond_after(window, &pages).await;
    }
    if !request.is_slow() {
        return pages.respond(&request);
    }
    let permit = ONE_AT_A_TIME.acquire().await;
    let (send, response) = oneshot::channel();
    let run = move || {
        let _permit = permit;
        drop(send.send(pages.respond(&request)));
    };
    if let Ok(_thread) = std::thread::Builder::new().name(THREAD_NAME.into()).spawn(run)
        && let Ok(response) = response.await
    {
        return response;
    }
    let mut response = Response::new(Full::from("no thread could be started for this response\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// Responds with the profile of a time window when it has passed.
async fn respond_after(window: Duration, pages: &Pages) -> Response<Full<Bytes>> {
    static WINDOWS: Semaphore = Semaphore::const_new(MAX_WINDOWS);
    let Ok(_permit) = WINDOWS.try_acquire() else {
        let mut response = Response::new(Full::from("too many profiles with `seconds` are being recorded\n"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return response;
    };
    let start = pages.start_window();
    tokio::time::sleep(window).await;
    pages.profile_of_window(&start)
}

async fn serve_connection(stream: TcpStream, pages: Arc<Pages>, last_used: Arc<LastUsed>) {
    let service = service_fn(move |request: Request<_>| {
        last_used.set();
        let uri = request.uri();
        let (path, query) = (uri.path().to_owned(), uri.query().map(str::to_owned));
        let request = PageRequest::new(request.method().clone(), path, query, request.headers());
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(respond(pages, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that has closed its sending side (`nc -N`) still waits for the responses.
        .half_close(true)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // All errors are caused by the client: resets, time-outs, malformed requests.
    let _ = tokio::time::timeout(MAX_LIFETIME, connection).await;
}
