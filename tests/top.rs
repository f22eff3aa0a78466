//! The example `top`, as a user runs it: into a pipe, and in a terminal.

#![cfg(all(feature = "axum", feature = "server"))]

use test_support as common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::watched::{served, two_workers};
use common::{example, is_installed, wait_for};
use pollwatch::Watchdog;
use tokio::runtime::Runtime;
use tower::{Layer, ServiceExt, service_fn};

/// What would set the title of the terminal, turn it red, move the cursor up, or turn the writing round.
const HOSTILE: &str = "/\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}1A\r\n\u{202e}{id}";

/// A runtime with two workers, one of which is blocked in a request until it is let go.
struct Blocked {
    addr: SocketAddr,
    release: Option<mpsc::Sender<()>>,
    watchdog: Watchdog,
    _runtime: Runtime,
}

impl Blocked {
    fn new() -> Blocked {
        let watchdog = served(Duration::from_millis(10));
        let runtime = two_workers(&watchdog, "ma\u{1b}[2Jin");
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let service = watchdog.layer().route_by(|_| Some(HOSTILE.into())).layer(service_fn(move |_| {
            let _ = released.lock().unwrap().recv();
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(String::new())))
        }));
        let _inside = runtime.enter();
        watchdog.spawn(async move { service.oneshot(http::Request::new(String::new())).await.map(drop) });
        let addr = watchdog.local_addr().unwrap();
        wait_for("the stall", || (!watchdog.stalls().is_empty()).then_some(()));
        drop(_inside);
        Blocked { addr, release: Some(release), watchdog, _runtime: runtime }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.release = None;
    }
}

fn once(url: &str) -> Output {
    Command::new(example("top")).args(["--once", url]).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn prints_who_is_blocked_once() {
    let mut scene = Blocked::new();
    let out = once(&format!("http://{}/", scene.addr));
    let table = text(&out.stdout);
    assert!(out.status.success(), "{}\n{}", table, text(&out.stderr));
    let line = |words: &[&str]| {
        let found = table.lines().find(|line| words.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("no line with {words:?} in:\n{table}")).to_owned()
    };
    line(&["pollwatch ", &format!("(pid {})", std::process::id()), "stalls from 10 ms on"]);
    line(&["ma\u{fffd}[2Jin: 1 of 2 workers blocked, the longest for "]);
    line(&["ma\u{fffd}[2Jin/", "BLOCKED", "{id}"]);
    line(&["ma\u{fffd}[2Jin/", "idle"]);
    line(&["#1", "so far", "{id}"]);
    for titles in [["worker ", "state "], ["stall ", "cause "], ["worst routes ", "shed"], ["worst places:", "polls "]]
    {
        line(&titles);
    }
    line(&["tests/top.rs:"]);
    let raw: Vec<char> = table.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
    assert!(raw.is_empty(), "{raw:?} in:\n{table}");

    scene.release = None;
    wait_for("the end of it", || {
        let table = text(&once(&scene.addr.to_string()).stdout);
        let ended = table.contains("none of 2 workers blocked") && !table.contains("so far");
        ended.then_some(())
    });
    scene.watchdog.shutdown();
    let out = once(&scene.addr.to_string());
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
    assert!(text(&out.stderr).starts_with(&format!("top: http://{}: ", scene.addr)), "{}", text(&out.stderr));
}

/// A server that says this to everybody.
fn saying(status: &'static str, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    addr
}

#[test]
fn says_what_is_wrong_with_a_server() {
    let cases = [
        (saying("404 Not Found", "no"), "answers 404: is this pollwatch's server?"),
        (saying("200 OK", "<html>"), "is not what pollwatch tells"),
        (saying("200 OK", "{}"), "is not what pollwatch tells"),
        (saying("200 OK", r#"{"schema": 99}"#), "tells schema 99: this top knows 1"),
        (saying("200 \u{1b}[31mOK", r#"{"schema": 1}"#), ""),
    ];
    for (addr, wanted) in cases {
        let out = once(&addr.to_string());
        let said = text(&out.stderr);
        assert!(said.contains(wanted) && !said.contains("panicked"), "{said}");
        assert!(!(said + &text(&out.stdout)).contains('\u{1b}'));
    }
    // It is JSON, and the right schema; what is missing is shown as nothing.
    let out = once(&saying("200 OK", r#"{"schema": 1, "runtimes": [{"workers": [7]}], "stalls": 3}"#).to_string());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let stall = r#"{"schema": 1, "stalls": [{"id": 3, "reason": "computing", "certainty": "suspected"}]}"#;
    let out = once(&saying("200 OK", stall).to_string());
    assert!(text(&out.stdout).contains("suspected: computing"), "{}", text(&out.stdout));
    for (wrong, wanted) in [("https://a:1", "only http"), ("--what", "unknown flag"), ("--every", "--every needs")] {
        let out = Command::new(example("top")).arg(wrong).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{wrong}");
        assert!(text(&out.stderr).contains(wanted), "{wrong}: {}", text(&out.stderr));
    }
    let out = Command::new(example("top")).stdin(Stdio::null()).output().unwrap();
    assert!(text(&out.stderr).contains("this is no terminal"), "{}", text(&out.stderr));
}

/// `top` in a terminal that `script` makes for it; what it writes arrives on a channel.
struct Terminal {
    child: Child,
    said: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open(addr: SocketAddr, columns: usize, lines: usize) -> Terminal {
        let top = format!("stty cols {columns} rows {lines}; exec '{}' {addr}", example("top").display());
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &top, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                let _ = say.send(buffer[..n].to_vec());
            }
        });
        Terminal { child, said, seen: String::new() }
    }

    /// Waits for a text, and forgets what was before its end.
    fn expect(&mut self, wanted: &str) -> String {
        wait_for(wanted, || {
            while let Ok(bytes) = self.said.try_recv() {
                self.seen += &String::from_utf8_lossy(&bytes);
            }
            let end = self.seen.find(wanted)? + wanted.len();
            Some(self.seen.drain(..end).collect())
        })
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    fn ended(&mut self) -> i32 {
        wait_for("its end", || self.child.try_wait().unwrap()).code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

#[test]
fn is_live_in_a_terminal_and_gives_it_back() {
    if !is_installed("script") {
        return;
    }
    let scene = Blocked::new();
    // Wide, narrow, and hardly there.
    for ((columns, lines), key) in [((120, 40), "q"), ((30, 12), "\u{3}"), ((9, 3), "\u{1b}")] {
        let mut terminal = Terminal::open(scene.addr, columns, lines);
        terminal.expect(ENTER);
        terminal.expect(if columns == 9 { "pollwatc…" } else { "pollwatch 0." });
        if columns == 120 {
            let mut shown = terminal.expect("BLOCKED");
            shown += &terminal.expect("so far");
            // It goes on: the same is drawn again, by the next look.
            shown += &terminal.expect("BLOCKED");
            for raw in ["\u{1b}]0;", "\u{7}", "\u{9b}", "\u{202e}", "\u{1b}[2J"] {
                assert!(!shown.contains(raw), "{raw:?} in {shown:?}");
            }
        }
        terminal.press(key);
        terminal.expect(LEAVE);
        assert_eq!(terminal.ended(), 0);
    }
}

#[test]
fn says_that_the_server_is_gone_and_sees_it_come_back() {
    if !is_installed("script") {
        return;
    }
    let scene = Blocked::new();
    let addr = scene.addr;
    let mut terminal = Terminal::open(addr, 200, 30);
    terminal.expect("1 of 2 workers blocked");
    scene.watchdog.shutdown();
    drop(scene);
    terminal.expect("what follows is old. Trying again");
    let again = wait_for("the same address", || Watchdog::builder().log(false).listen(addr).start().ok());
    terminal.expect(&format!("(pid {})", std::process::id()));
    terminal.press("q");
    terminal.expect(LEAVE);
    assert_eq!(terminal.ended(), 0);
    again.shutdown();
}
