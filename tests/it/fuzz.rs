//! Fuzzing of the server. Whatever bytes it receives, it keeps answering, and none of its threads
//! panics.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pollwatch::Watchdog;

use crate::random::{Random, rounds};
use test_support::*;

/// A time below the server's own time limits. A response that takes longer waited for one of them.
const PROMPT: Duration = Duration::from_secs(8);
/// The number of idle connections that stay open, more than the server keeps.
const LEFT_OPEN: usize = 80;

const PATHS: [&str; 13] = [
    "/",
    "/live",
    "/live.html",
    "/live/profile",
    "/metrics",
    "/stalls",
    "/stalls/flamegraph",
    "/stalls/folded",
    "/stalls/speedscope",
    "/debug/pprof/stalls",
    "/healthz",
    "/incidents",
    "/nowhere",
];

/// Counts the panics of pollwatch's own threads since the start of the process. tokio would hide
/// them.
fn panics() -> u64 {
    static ONCE: Once = Once::new();
    static PANICS: AtomicU64 = AtomicU64::new(0);
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some("pollwatch-http") {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            earlier(info);
        }));
    });
    PANICS.load(Ordering::SeqCst)
}

fn target(random: &Random) -> Vec<u8> {
    let path = random.pick(&PATHS).as_bytes().to_vec();
    match random.below(12) {
        0 => [&path[..], b"?", &random.bytes(8)].concat(),
        1 => [b"http://x:1", &path[..]].concat(),
        2 => b"*".to_vec(),
        3 => [&path[..], &b"/..%2f%00".repeat(random.size(2_000))].concat(),
        4 => random.bytes(9),
        5 => Vec::new(),
        _ => path,
    }
}

fn header(random: &Random) -> Vec<u8> {
    const USUAL: [&[u8]; 20] = [
        b"host: x",
        b"host:",
        b"connection: close",
        b"connection: keep-alive, upgrade",
        b"content-length: 0",
        b"content-length: 7",
        b"content-length: -1",
        b"content-length: 18446744073709551616",
        b"content-length: 5, 6",
        b"transfer-encoding: chunked",
        b"transfer-encoding: gzip, chunked, chunked",
        b"expect: 100-continue",
        b"upgrade: h2c",
        b"accept-encoding: gzip;q=0",
        b"range: bytes=0-99999999999",
        b" folded: line",
        b"no colon",
        b": no name",
        b"x\0y: nul",
        b"cr: a\rb",
    ];
    match random.below(10) {
        0 => [b"x-long: ".to_vec(), vec![b'v'; random.size(30_000)]].concat(),
        1 => [vec![b'n'; random.size(3_000)], b": v".to_vec()].concat(),
        2 => random.bytes(20),
        _ => random.pick(&USUAL).to_vec(),
    }
}

/// Makes a request, or something similar to one.
fn head(random: &Random) -> Vec<u8> {
    const METHODS: [&[u8]; 14] = [
        b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"get", b"PRI",
        b"", b"B\xffW",
    ];
    const VERSIONS: [&[u8]; 8] =
        [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"", b"HTTP/1.1 x"];
    let end: &[u8] = if random.once_in(10) { b"\n" } else { b"\r\n" };
    let line = [random.pick(&METHODS), b" ", &target(random), b" ", random.pick(&VERSIONS), end].concat();
    let count = if random.once_in(20) { random.size(400) } else { random.below(6) };
    let headers = (0..count).flat_map(|_| [&header(random)[..], end].concat()).collect::<Vec<_>>();
    let body = if random.once_in(3) {
        random.pick(&[&b"1234567"[..], b"5\r\nabcde\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n", b"GET"])
    } else {
        b""
    };
    [&line[..], &headers, end, body].concat()
}

/// Changes parts of the bytes at random.
fn mangle(random: &Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(6) {
        let (at, len) = (random.below(bytes.len() + 1), random.size(64));
        let end = (at + len).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let noise = random.bytes(len);
                bytes.splice(at..at, noise);
            }
            4 => bytes.truncate(at),
            _ => {
                let other = head(random);
                bytes.splice(at..at, other);
            }
        }
    }
}

/// Sends the bytes at once or in pieces, as far as the server takes them.
fn send(random: &Random, mut stream: &TcpStream, bytes: &[u8]) {
    let piece = if random.once_in(2) { bytes.len().max(1) } else { 1 + random.size(bytes.len().max(1)) };
    for (i, part) in bytes.chunks(piece).enumerate() {
        if stream.write_all(part).is_err() {
            return;
        }
        if i < 20 && random.once_in(3) {
            std::thread::sleep(Duration::from_micros(random.next() % 2_000));
        }
    }
}

/// Reads until the server closes the connection.
fn read_to_close(mut stream: &TcpStream) -> Vec<u8> {
    let (mut all, started) = (Vec::new(), Instant::now());
    // A reset closes the connection too.
    let _ = stream.read_to_end(&mut all);
    assert!(started.elapsed() < PROMPT, "the server closes the connection by itself");
    all
}

/// Parses the statuses of the responses to requests with these methods.
fn statuses(mut text: &[u8], methods: &[&str]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for method in methods {
        let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") else { break };
        let head = String::from_utf8(text[..end].to_vec()).expect("a head is text").to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        statuses.push(status.unwrap_or_else(|| panic!("no status: {head}")));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let length = if *method == "HEAD" { 0 } else { length.expect("a length") };
        text = &text[end + 4 + length..];
    }
    assert!(text.is_empty(), "more than was asked for: {:?}", String::from_utf8_lossy(text));
    statuses
}

/// Sends valid requests in a row; each has its response, in order.
fn valid_pipeline(random: &Random, addr: SocketAddr) {
    let stream = connect(addr);
    let (mut bytes, mut methods, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..1 + random.size(30) {
        let (method, path) = (random.pick(&["GET", "GET", "HEAD", "POST", "BREW"]), random.pick(&PATHS));
        bytes.extend(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nx-n: {}\r\n\r\n", random.next()).bytes());
        methods.push(method);
        wanted.push(match (method, path) {
            ("POST" | "BREW", _) => 405,
            (_, "/nowhere") => 404,
            _ => 200,
        });
    }
    send(random, &stream, &bytes);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&read_to_close(&stream), &methods), wanted);
}

/// Sends random bytes. The answer is empty or a response.
fn anything(random: &Random, addr: SocketAddr, left_open: &mut VecDeque<TcpStream>) {
    let stream = connect(addr);
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = (0..1 + random.size(4)).flat_map(|_| head(random)).collect::<Vec<_>>();
    if random.once_in(10) {
        let len = random.size(100_000);
        bytes = random.bytes(len);
    } else if random.once_in(2) {
        mangle(random, &mut bytes);
    }
    send(random, &stream, &bytes);
    match random.below(4) {
        // Closes the connection, with or without a reset.
        0 => {}
        1 => {
            left_open.push_back(stream);
            if left_open.len() > LEFT_OPEN {
                left_open.pop_front();
            }
        }
        _ => {
            if stream.shutdown(Shutdown::Write).is_ok() {
                let printed = read_to_close(&stream);
                assert!(
                    printed.is_empty() || printed.starts_with(b"HTTP/1."),
                    "{:?}",
                    String::from_utf8_lossy(&printed)
                );
            }
        }
    }
}

#[test]
fn the_server_answers_after_any_bytes() {
    let builder = Watchdog::builder().threshold(THRESHOLD).log(false);
    let watchdog = builder.listen("127.0.0.1:0").start().unwrap();
    let addr = watchdog.local_addr().unwrap();
    let runtime = watchdog.build_runtime("main", current_thread()).unwrap();
    runtime.block_on(watchdog.watch(yields(3)));
    let before = panics();
    let mut left_open = VecDeque::new();
    rounds("http", |random| {
        for _ in 0..1 + random.below(4) {
            anything(random, addr, &mut left_open);
        }
        valid_pipeline(random, addr);
        let started = Instant::now();
        assert_eq!(Metrics::scrape(addr).get("pollwatch_polls_total", &[("runtime", "main")]), 4.0);
        assert!(started.elapsed() < PROMPT);
        assert_eq!(panics(), before, "a panic of the server's");
    });
    drop(left_open);
    assert_eq!(get(addr, "/healthz").status, 200);
}
