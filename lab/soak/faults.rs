//! What befalls a service in its life, some hundred times a minute. Each runs on a thread of its own until it is told to stop, and has
//! given everything back when it returns.

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

/// What the faults need.
pub(crate) struct Scene {
    pub(crate) watchdog: Watchdog,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) service: Handle,
    pub(crate) addr: SocketAddr,
    pub(crate) pages: SocketAddr,
}

type Fault = fn(&Scene, usize) -> Result<(), String>;

/// Name, pause in milliseconds after each, and what happens.
const FAULTS: [(&str, u64, Fault); 9] = [
    ("runtimes rebuilt", 10, rebuild),
    ("runtimes without a name", 10, nameless),
    ("threads come and gone", 5, churn),
    ("libraries loaded and unloaded", 20, load_library),
    ("watchdogs made and dropped", 50, watchdog),
    ("slow and broken scrapers", 10, scrapers),
    ("500 idle connections", 300, idle),
    ("children", 30, child),
    ("tasks aborted, panicked, left", 5, tasks),
];

/// All of them, and the load, until the time is over; tells how many requests there were.
pub(crate) fn befall(scene: &Arc<Scene>, time: Duration) -> Result<u64, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let threads = FAULTS.map(|(name, pause, fault)| {
        let (scene, stop) = (scene.clone(), stop.clone());
        thread::spawn(move || {
            for n in 0.. {
                if stop.load(Relaxed) {
                    break;
                }
                fault(&scene, n).map_err(|error| format!("{name}: {error}"))?;
                scene.ledger.count(name);
                thread::sleep(Duration::from_millis(pause));
            }
            Ok::<_, String>(())
        })
    });
    let clients = [0; 2].map(|_| {
        let (scene, stop) = (scene.clone(), stop.clone());
        thread::spawn(move || service::load(scene.addr, &stop))
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

/// A runtime of the same name again and again, with tasks of all fates.
fn rebuild(scene: &Scene, n: usize) -> Result<(), String> {
    const NAME: &str = "rebuilt";
    let Scene { watchdog, ledger, .. } = scene;
    let runtime = watchdog.build_runtime(NAME, &mut builder(n)).map_err(text)?;
    runtime.block_on(ledger.watch(watchdog, NAME, async {
        let ends: Vec<_> = (0..20).map(|n| ledger.spawn(watchdog, NAME, yields(n))).collect();
        let panics = ledger.spawn(watchdog, NAME, async {
            yield_now().await;
            std::panic::panic_any(Deliberate)
        });
        // It ends with the runtime.
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

/// Nobody names it; it is taken in where a watched future is polled.
fn nameless(scene: &Scene, n: usize) -> Result<(), String> {
    let runtime = builder(n).build().map_err(text)?;
    // One such runtime is there at a time.
    runtime.block_on(scene.ledger.watch(&scene.watchdog, "runtime-1", yields(n % 5)));
    Ok(())
}

/// Threads that measure a little and go.
fn churn(scene: &Scene, _: usize) -> Result<(), String> {
    let wait = |scene: &Scene| scene.service.block_on(scene.ledger.watch(&scene.watchdog, SERVICE, yields(3)));
    thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| wait(scene)))));
    Ok(())
}

fn load_library(_: &Scene, _: usize) -> Result<(), String> {
    const NAMES: [&std::ffi::CStr; 4] = [c"libz.so.1", c"libanl.so.1", c"libthread_db.so.1", c"libBrokenLocale.so.1"];
    for name in NAMES {
        // SAFETY: a C string; nothing of the library is used before it is unloaded.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            if !handle.is_null() {
                libc::dlclose(handle);
            }
        }
    }
    Ok(())
}

/// A watchdog of its own with all that belongs to it, which goes before or after its runtimes; and nothing is lost to it either.
fn watchdog(_: &Scene, n: usize) -> Result<(), String> {
    let watchdog =
        Watchdog::builder().log(false).listen(SocketAddr::from(([127, 0, 0, 1], 0))).start().map_err(text)?;
    let ledger = Ledger::default();
    let runtimes: Vec<_> = ["one", "two"]
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let runtime = watchdog.build_runtime(name, &mut builder(n + i)).map_err(text)?;
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
        Some(line) => Err(format!("{}: did {}, counted {}", line.what, line.did, line.counted)),
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

/// One that reads a byte at a time, one that never reads, one that never asks to the end; and one that does it right meanwhile.
fn scrapers(scene: &Scene, n: usize) -> Result<(), String> {
    let connect = || TcpStream::connect(scene.pages).map_err(text);
    let mut slow = connect()?;
    slow.set_read_timeout(Some(Duration::from_secs(30))).map_err(text)?;
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").map_err(text)?;
    let mut deaf = connect()?;
    deaf.set_nonblocking(true).map_err(text)?;
    let _ = deaf.write(&b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100));
    let mut half = connect()?;
    half.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").map_err(text)?;
    // It may be closed for the sake of newer ones: the idle ones come meanwhile.
    for _ in 0..20 {
        if slow.read_exact(&mut [0]).is_err() {
            scene.ledger.count("scrapers closed for newer ones");
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let path = ["/metrics", "/stalls", "/stalls/flamegraph", "/healthz"][n % 4];
    for _ in 0..10 {
        match get(scene.pages, path) {
            Ok(reply) if reply.starts_with("HTTP/1.1 200") => return Ok(()),
            Ok(reply) if !reply.is_empty() => return Err(format!("{path} is not answered well: {reply}")),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("{path} is not answered in time"));
            }
            _ => scene.ledger.count("scrapers closed for newer ones"),
        }
    }
    Err(format!("{path} is not answered"))
}

fn idle(scene: &Scene, _: usize) -> Result<(), String> {
    let all = (0..500).map(|_| TcpStream::connect(scene.pages)).collect::<Result<Vec<_>, _>>().map_err(text)?;
    thread::sleep(Duration::from_millis(100));
    // Whoever comes now is answered.
    if !get(scene.pages, "/metrics").map_err(text)?.starts_with("HTTP/1.1 200") {
        return Err("idle connections keep a scraper out".to_owned());
    }
    drop(all);
    Ok(())
}

/// Forked by the standard library in both of its ways, and executed.
fn child(_: &Scene, n: usize) -> Result<(), String> {
    let mut command = Command::new("true");
    if n.is_multiple_of(2) {
        // SAFETY: nothing is done between fork and exec. That there is something makes it a fork.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    let status = command.status().map_err(text)?;
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}

/// Tasks of the service that do not end by themselves.
fn tasks(scene: &Scene, n: usize) -> Result<(), String> {
    let Scene { watchdog, ledger, .. } = scene;
    let _entered = scene.service.enter();
    let waits = ledger.spawn(watchdog, SERVICE, std::future::pending::<()>());
    let busy = ledger.spawn(watchdog, SERVICE, yields(usize::MAX));
    let panics = ledger.spawn(watchdog, SERVICE, async move {
        yields(n % 3).await;
        std::panic::panic_any(Deliberate)
    });
    // It is nobody's any more, and ends all the same.
    drop(ledger.spawn(watchdog, SERVICE, yields(7)));
    thread::sleep(Duration::from_millis(1));
    waits.abort();
    busy.abort();
    let _: [Result<(), _>; 3] = [waits, busy, panics].map(|task| scene.service.block_on(task));
    Ok(())
}
