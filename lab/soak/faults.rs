//! The faults that are injected into the service, some hundred times a minute. Each is repeated on
//! a thread of its own, and has released all its resources when it returns.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use pollwatch::Watchdog;
use tokio::runtime::{Builder, Handle};
use tokio::task::yield_now;

use crate::ledger::Ledger;
use crate::run::{Deliberate, SERVICE};
use crate::service;

/// The service under test, and the means to disturb it.
pub(crate) struct Service {
    pub(crate) watchdog: Watchdog,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) handle: Handle,
    pub(crate) addr: SocketAddr,
    /// The address of pollwatch's server.
    pub(crate) pages: SocketAddr,
}

type Fault = fn(&Service, usize) -> Result<(), String>;

/// The name of each fault, the pause after it in milliseconds, and the fault.
const FAULTS: [(&str, u64, Fault); 9] = [
    ("runtimes rebuilt", 10, rebuild),
    ("runtimes without a name", 10, nameless),
    ("threads come and gone", 5, churn),
    ("libraries loaded and unloaded", 20, load_library),
    ("watchdogs made and dropped", 50, watchdog),
    ("slow and broken scrapers", 10, scrapers),
    ("500 idle connections", 300, idle),
    ("children", 30, child),
    ("tasks aborted, panicked, detached", 5, tasks),
];

/// Runs the load and all faults for some time, and returns the number of requests.
pub(crate) fn run_all(service: &Arc<Service>, time: Duration) -> Result<u64, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let threads = FAULTS.map(|(name, pause, fault)| {
        let (service, stop) = (service.clone(), stop.clone());
        thread::spawn(move || {
            for n in 0.. {
                if stop.load(Relaxed) {
                    break;
                }
                fault(&service, n).map_err(|error| format!("{name}: {error}"))?;
                service.ledger.count(name);
                thread::sleep(Duration::from_millis(pause));
            }
            Ok::<_, String>(())
        })
    });
    let clients = [0; 2].map(|_| {
        let (service, stop) = (service.clone(), stop.clone());
        thread::spawn(move || service::load(service.addr, &stop))
    });
    thread::sleep(time);
    stop.store(true, Relaxed);
    let requests = clients.map(|client| client.join().unwrap_or(0)).iter().sum();
    for thread in threads {
        thread.join().map_err(|_| "a fault panicked".to_owned())??;
    }
    Ok(requests)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn yields(n: usize) {
    for _ in 0..n {
        yield_now().await;
    }
}

fn builder(n: usize) -> Builder {
    let mut builder = if n.is_multiple_of(2) { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(2).enable_all();
    builder
}

/// Builds a runtime of the same name repeatedly, with tasks of every outcome.
fn rebuild(service: &Service, n: usize) -> Result<(), String> {
    const NAME: &str = "rebuilt";
    let Service { watchdog, ledger, .. } = service;
    let runtime = watchdog.build_runtime(NAME, builder(n)).map_err(text)?;
    runtime.block_on(ledger.watch(watchdog, NAME, async {
        let ends: Vec<_> = (0..20).map(|n| ledger.spawn(watchdog, NAME, yields(n))).collect();
        let panics = ledger.spawn(watchdog, NAME, async {
            yield_now().await;
            std::panic::panic_any(Deliberate)
        });
        // Dropped together with the runtime.
        drop(ledger.spawn(watchdog, NAME, std::future::pending::<()>()));
        for task in ends {
            let _ = task.await;
        }
        let _: Result<(), _> = panics.await;
    }));
    if n.is_multiple_of(3) {
        runtime.shutdown_timeout(Duration::from_secs(5))
    } else {
        drop(runtime)
    }
    Ok(())
}

/// Builds a runtime without a name, which pollwatch registers when it polls a watched future.
fn nameless(service: &Service, n: usize) -> Result<(), String> {
    let runtime = builder(n).build().map_err(text)?;
    // There is one such runtime at a time, so its name is the first one.
    runtime.block_on(service.ledger.watch(&service.watchdog, "runtime-1", yields(n % 5)));
    Ok(())
}

/// Starts threads that poll a watched future and end.
fn churn(service: &Service, _: usize) -> Result<(), String> {
    let wait = |service: &Service| service.handle.block_on(service.ledger.watch(&service.watchdog, SERVICE, yields(3)));
    thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| wait(service)))));
    Ok(())
}

/// Loads and unloads libraries that are not loaded otherwise.
fn load_library(_: &Service, _: usize) -> Result<(), String> {
    const NAMES: [&std::ffi::CStr; 4] = [c"libz.so.1", c"libanl.so.1", c"libthread_db.so.1", c"libBrokenLocale.so.1"];
    for name in NAMES {
        // SAFETY: the name is a C string, and nothing of the library is used before it is unloaded.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            if !handle.is_null() {
                libc::dlclose(handle);
            }
        }
    }
    Ok(())
}

/// Starts a second watchdog, which is dropped before or after its runtimes, and checks its counts.
fn watchdog(_: &Service, n: usize) -> Result<(), String> {
    let watchdog = Watchdog::builder().log(false).listen("127.0.0.1:0").start().map_err(text)?;
    let ledger = Ledger::default();
    let runtimes: Vec<_> = ["one", "two"]
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let runtime = watchdog.build_runtime(name, builder(n + i)).map_err(text)?;
            runtime.block_on(ledger.watch(&watchdog, name, async {
                let task = ledger.spawn(&watchdog, name, yields(10));
                let _ = task.await;
            }));
            Ok::<_, String>(runtime)
        })
        .collect::<Result<_, _>>()?;
    if n.is_multiple_of(4) {
        let pages = watchdog.local_addr().ok_or("no server")?;
        let text = get(pages, "/metrics").map_err(text)?;
        if !text.contains("pollwatch_polls_total{runtime=\"two\"}") {
            return Err(format!("no metrics: {text}"));
        }
    }
    let (kept, dropped) =
        if n.is_multiple_of(3) { (Some(watchdog.clone()), None) } else { (None, Some(watchdog.clone())) };
    drop((runtimes, dropped));
    let wrong: Vec<_> = ledger.compare(&watchdog.snapshot()).into_iter().filter(|line| !line.agrees()).collect();
    drop(kept);
    match wrong.first() {
        None => Ok(()),
        Some(line) => Err(format!("{}: expected {}, counted {}", line.what, line.expected, line.counted)),
    }
}

fn get(addr: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens clients that read a byte at a time, never read, or never finish their request. A correct
/// client must be answered meanwhile.
fn scrapers(service: &Service, n: usize) -> Result<(), String> {
    let connect = || TcpStream::connect(service.pages).map_err(text);
    let mut slow = connect()?;
    slow.set_read_timeout(Some(Duration::from_secs(30))).map_err(text)?;
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").map_err(text)?;
    let mut never_reads = connect()?;
    never_reads.set_nonblocking(true).map_err(text)?;
    let _ = never_reads.write(&b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100));
    let mut unfinished = connect()?;
    unfinished.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").map_err(text)?;
    // The server closes old connections for new ones when the idle connections are there, too.
    for _ in 0..20 {
        if slow.read_exact(&mut [0]).is_err() {
            service.ledger.count("scrapers closed for newer ones");
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let path = ["/metrics", "/stalls", "/stalls/flamegraph", "/healthz"][n % 4];
    for _ in 0..10 {
        match get(service.pages, path) {
            Ok(reply) if reply.starts_with("HTTP/1.1 200") => return Ok(()),
            Ok(reply) if !reply.is_empty() => return Err(format!("{path} has a wrong answer: {reply}")),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("{path} is not answered in time"));
            }
            _ => service.ledger.count("scrapers closed for newer ones"),
        }
    }
    Err(format!("{path} is not answered"))
}

/// Opens 500 idle connections. A scraper must still be answered.
fn idle(service: &Service, _: usize) -> Result<(), String> {
    let all = (0..500).map(|_| TcpStream::connect(service.pages)).collect::<Result<Vec<_>, _>>().map_err(text)?;
    thread::sleep(Duration::from_millis(100));
    if !get(service.pages, "/metrics").map_err(text)?.starts_with("HTTP/1.1 200") {
        return Err("idle connections keep a scraper out".to_owned());
    }
    drop(all);
    Ok(())
}

/// Starts a child process, by `posix_spawn` and by `fork`.
fn child(_: &Service, n: usize) -> Result<(), String> {
    let mut command = Command::new("true");
    if n.is_multiple_of(2) {
        // SAFETY: the closure does nothing between fork and exec. Its presence makes the standard
        // library use fork.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    let status = command.status().map_err(text)?;
    if status.success() { Ok(()) } else { Err(format!("the child ended with {status}")) }
}

/// Spawns tasks on the service's runtime that are aborted, panic, or are detached.
fn tasks(service: &Service, n: usize) -> Result<(), String> {
    let Service { watchdog, ledger, .. } = service;
    let _entered = service.handle.enter();
    let waits = ledger.spawn(watchdog, SERVICE, std::future::pending::<()>());
    let busy = ledger.spawn(watchdog, SERVICE, yields(usize::MAX));
    let panics = ledger.spawn(watchdog, SERVICE, async move {
        yields(n % 3).await;
        std::panic::panic_any(Deliberate)
    });
    // A detached task runs to its end.
    drop(ledger.spawn(watchdog, SERVICE, yields(7)));
    thread::sleep(Duration::from_millis(1));
    waits.abort();
    busy.abort();
    let _: [Result<(), _>; 3] = [waits, busy, panics].map(|task| service.handle.block_on(task));
    Ok(())
}
