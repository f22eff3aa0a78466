//! The server: hyper on a thread and a current-thread runtime of its own, so that it responds while
//! every worker is blocked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::page_source::PageSource;
use super::pages::Pages;
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
        addr: SocketAddr,
        source: Arc<dyn PageSource>,
    ) -> Result<(Server, impl FnOnce() + Send + 'static), Error> {
        let bind = || {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // The standard library sets it, too: an address can be bound right after its last use.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let listener = {
                let _entered = runtime.enter();
                socket.listen(BACKLOG)?
            };
            let addr = listener.local_addr()?;
            Ok((listener, addr, runtime))
        };
        let (listener, bound, runtime) = bind().map_err(|error| Error::listen(addr, error))?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let run = move || {
            runtime.block_on(async {
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

async fn serve_connection(stream: TcpStream, pages: Arc<Pages>, last_used: Arc<LastUsed>) {
    let service = service_fn(move |request: Request<_>| {
        last_used.set();
        let response = pages.respond(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
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
