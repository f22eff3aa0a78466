//! Tests of misbehaving clients: a scraper is still answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pollwatch::Watchdog;

use test_support::*;

/// A time below the server's own time limits. An answer in this time did not wait for one of them.
const PROMPT: Duration = Duration::from_secs(8);

fn serving() -> (Watchdog, std::net::SocketAddr) {
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false);
    let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
    let addr = watchdog.local_addr().unwrap();
    (watchdog, addr)
}

/// Waits until the server closes the connection, and returns what it sent before.
fn is_closed(mut stream: &TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn answers_promptly(addr: std::net::SocketAddr) {
    let started = Instant::now();
    assert_eq!(get(addr, "/metrics").status, 200);
    assert!(started.elapsed() < PROMPT, "the answer waited for another client");
}

#[test]
fn an_unfinished_head_is_closed() {
    let (_watchdog, addr) = serving();
    let mut half = connect(addr);
    half.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").unwrap();
    let silent = connect(addr);
    answers_promptly(addr);
    assert!(is_closed(&half) && is_closed(&silent), "closed by a time limit of the server's");
    answers_promptly(addr);
}

#[test]
fn an_endless_head_is_refused() {
    let (_watchdog, addr) = serving();
    let mut endless = connect(addr);
    endless.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    let started = Instant::now();
    let line = [b"x-filler: ".as_slice(), &[b'x'; 1000], b"\r\n"].concat();
    let mut sent = 0;
    while endless.write_all(&line).is_ok() {
        sent += line.len();
        // More than the kernel buffers on either side, and no more.
        assert!(sent < 64 << 20, "the server never stops reading");
    }
    assert!(started.elapsed() < PROMPT, "refused by its size, not by its time");
    answers_promptly(addr);
}

#[test]
fn garbage_is_refused() {
    let (_watchdog, addr) = serving();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = connect(addr);
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(is_closed(&stream));
    }
    answers_promptly(addr);
}

#[test]
fn a_scraper_is_answered_beside_five_hundred_idle_connections() {
    let (watchdog, addr) = serving();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let idle: Vec<TcpStream> = (0..500).map(|_| connect(addr)).collect();
    answers_promptly(addr);
    // The oldest connections were closed for the newest, long before any time limit.
    let started = Instant::now();
    assert!(is_closed(&idle[0]));
    assert!(started.elapsed() < PROMPT);
    runtime.block_on(watchdog.watch(yields(3)));
    let metrics = Metrics::scrape(addr);
    assert_eq!(metrics.get("pollwatch_polls_total", &[("runtime", "main")]), 4.0, "measuring continues");
    drop(idle);
    answers_promptly(addr);
}

/// Ten open pages that ask once a second are answered beside more idle connections than the server
/// keeps.
#[test]
fn ten_pages_are_answered_beside_five_hundred_idle_connections() {
    let (watchdog, addr) = serving();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    let open: Vec<_> = (0..10).map(|_| std::thread::spawn(move || page(addr))).collect();
    let idle: Vec<TcpStream> = (0..500).map(|_| connect(addr)).collect();
    answers_promptly(addr);
    runtime.block_on(watchdog.watch(yields(3)));
    assert_eq!(Metrics::scrape(addr).get("pollwatch_polls_total", &[("runtime", "main")]), 4.0, "measuring continues");
    let slowest = open.into_iter().map(|page| page.join().unwrap()).max();
    assert!(slowest < Some(PROMPT), "a page waited for {slowest:?}");
    drop(idle);
    answers_promptly(addr);
}

/// Asks as a page does, on one connection and on a new one when the server has closed that. Returns
/// the time of the slowest answer.
fn page(addr: std::net::SocketAddr) -> Duration {
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let (mut slowest, mut answers) = (Duration::ZERO, 0);
    while answers < 4 {
        let started = Instant::now();
        let answer = agent.get(format!("http://{addr}/live")).call();
        let Ok(body) = answer.and_then(|mut answer| answer.body_mut().read_to_string()) else {
            assert!(started.elapsed() < PROMPT, "closed, not left waiting");
            continue;
        };
        assert!(body.starts_with("{\"schema\":1,") && body.ends_with('}'));
        slowest = slowest.max(started.elapsed());
        answers += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    slowest
}

/// A flood of silent connections does not cut off a client that sends a request.
#[test]
fn a_request_is_answered_during_a_flood_of_connections() {
    let (_watchdog, addr) = serving();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut idle = Vec::new();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                // The connections before are closed here, but perhaps not yet at the server.
                idle = (0..100).map(|_| connect(addr)).collect::<Vec<_>>();
            }
            idle.len()
        });
        for _ in 0..20 {
            answers_promptly(addr);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(flood.join().unwrap(), 100);
    });
}

/// A client that never reads its response does not delay the responses of others.
#[test]
fn a_client_that_does_not_read_delays_no_other() {
    let (_watchdog, addr) = serving();
    let mut deaf = connect(addr);
    deaf.set_nonblocking(true).unwrap();
    let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    // Sends until the server stops reading, because its responses are not read.
    for _ in 0..100 {
        if deaf.write(&requests).is_err() {
            break;
        }
    }
    answers_promptly(addr);
}
