//! The server: hyper on a thread and a current-thread runtime of its own, so that it answers while every worker is blocked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use super::pages::{self, Pages};
use crate::error::Error;
use crate::watchdog::WatchdogState;
use crate::watchdog::Worker;

/// A request's head must be there in this time, from the connection's begin or the last response on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections served at a time. One more, and the one that has been idle for longest is closed: idle ones cannot keep a scraper out.
const MAX_CONNECTIONS: usize = 64;
/// Nor can very many at once: who came or asked less than this ago is not closed for a newer one, which waits instead.
const GRACE: Duration = Duration::from_millis(100);
/// Connections that may wait to be accepted. Beyond that the kernel forgets those that come, and their peers notice after seconds.
const BACKLOG: u32 = 1024;
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
    pub(crate) fn start(addr: SocketAddr, shared: Arc<WatchdogState>) -> Result<(Server, Worker), Error> {
        let bind = || {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // As the standard library does it: an address that was just in use can be used at once.
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
    let (begin, mut connections) = (Instant::now(), Vec::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        make_room(&mut connections, begin).await;
        let asked = Arc::new(Asked { begin, at: AtomicU64::new(0) });
        asked.now();
        let task = tokio::spawn(connection(stream, pages.clone(), asked.clone()));
        connections.push(Connection { task, asked });
    }
}

/// When a connection came, or asked for the last time.
struct Asked {
    begin: Instant,
    /// Nanoseconds since then.
    at: AtomicU64,
}

impl Asked {
    fn now(&self) {
        self.at.store(self.begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

struct Connection {
    task: tokio::task::JoinHandle<()>,
    asked: Arc<Asked>,
}

/// Waits until there is a place for one more.
async fn make_room(connections: &mut Vec<Connection>, begin: Instant) {
    loop {
        connections.retain(|connection| !connection.task.is_finished());
        let asked = |connection: &Connection| connection.asked.at.load(Ordering::Relaxed);
        let idlest = connections.iter().enumerate().min_by_key(|(_, connection)| asked(connection));
        let Some((at, since)) = idlest.map(|(at, connection)| (at, asked(connection))) else { return };
        if connections.len() < MAX_CONNECTIONS {
            return;
        }
        let idle = begin.elapsed().saturating_sub(Duration::from_nanos(since));
        if idle >= GRACE {
            connections.swap_remove(at).task.abort();
            return;
        }
        tokio::time::sleep(GRACE - idle).await;
    }
}

async fn connection(stream: tokio::net::TcpStream, pages: Arc<Pages>, asked: Arc<Asked>) {
    let service = service_fn(move |request: Request<_>| {
        asked.now();
        let response = pages::respond(&pages, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Who has asked all (`nc -N`) still waits for the answers.
        .half_close(true)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Errors are the peer's: resets, time-outs, malformed requests.
    let _ = tokio::time::timeout(MAX_LIFE, connection).await;
}
