//! Tests of the program `pollwatch top`, with its output in a pipe and in a terminal.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use tokio::runtime::Runtime;
use tower::{Layer, ServiceExt, service_fn};

/// The time limit of every wait, ample for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A route name that would set the title of the terminal, turn it red, move the cursor up, and
/// reverse the direction of the text.
const MALICIOUS_ROUTE: &str = "/\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}1A\r\n\u{202e}{id}";

/// A runtime with two workers, one of which is blocked in a request until it is released.
struct Blocked {
    addr: SocketAddr,
    release: Option<mpsc::Sender<()>>,
    watchdog: Watchdog,
    _runtime: Runtime,
}

impl Blocked {
    fn new() -> Blocked {
        let watchdog =
            Watchdog::builder().threshold(Duration::from_millis(10)).log(false).listen("127.0.0.1:0").start().unwrap();
        let runtime = watchdog.runtime("ma\u{1b}[2Jin").worker_threads(2).enable_all().build().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let service = watchdog.layer().route_by(|_| Some(MALICIOUS_ROUTE.into())).layer(service_fn(move |_| {
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

/// Calls `answer` repeatedly until it returns a value.
fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "still waiting after {DEADLINE:?} for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn pollwatch(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pollwatch")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn once(url: &str) -> Output {
    pollwatch(&["top", "--once", url])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn once_prints_which_workers_are_blocked() {
    let mut blocked = Blocked::new();
    let out = once(&format!("http://{}/", blocked.addr));
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
    for titles in
        [["worker ", "state "], ["stall ", "cause "], ["worst routes ", "requests"], ["worst spawn sites", "polls "]]
    {
        line(&titles);
    }
    line(&["tests/top.rs:"]);
    let raw: Vec<char> = table.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
    assert!(raw.is_empty(), "{raw:?} in:\n{table}");

    blocked.release = None;
    wait_for("the end of the stall", || {
        let table = text(&once(&blocked.addr.to_string()).stdout);
        let ended = table.contains("none of 2 workers blocked") && !table.contains("so far");
        ended.then_some(())
    });
    blocked.watchdog.shutdown();
    let out = once(&blocked.addr.to_string());
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
    assert!(
        text(&out.stderr).starts_with(&format!("pollwatch top: cannot reach http://{}: ", blocked.addr)),
        "{}",
        text(&out.stderr)
    );
}

/// A server that gives the same answer to every request.
fn answering(status: &'static str, body: &'static str) -> SocketAddr {
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
fn errors_say_what_is_wrong_with_the_server() {
    let cases = [
        (answering("404 Not Found", "no"), "answers with HTTP status 404. Is this the address of pollwatch's server?"),
        (answering("200 OK", "<html>"), "does not answer like pollwatch's server"),
        (answering("200 OK", "{}"), "does not answer like pollwatch's server"),
        (answering("200 OK", r#"{"schema": 99}"#), "answers in schema 99, but this program reads schema 1"),
        (answering("200 \u{1b}[31mOK", r#"{"schema": 1}"#), ""),
    ];
    for (addr, wanted) in cases {
        let out = once(&addr.to_string());
        let stderr = text(&out.stderr);
        assert!(stderr.contains(wanted) && !stderr.contains("panicked"), "{stderr}");
        assert!(!(stderr + &text(&out.stdout)).contains('\u{1b}'));
    }
    // Fields that are missing or of another type are shown as nothing.
    let out = once(&answering("200 OK", r#"{"schema": 1, "runtimes": [{"workers": [7]}], "stalls": 3}"#).to_string());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let stall = r#"{"schema": 1, "stalls": [{"id": 3, "reason": "computing", "certainty": "suspected"}]}"#;
    let out = once(&answering("200 OK", stall).to_string());
    assert!(text(&out.stdout).contains("suspected: computing"), "{}", text(&out.stdout));
    let out = pollwatch(&["top"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("not a terminal. Use --once"), "{}", text(&out.stderr));
}

/// Conditions and late runtimes have lines of their own, and victims and tasks that are not polled
/// have columns where they are known.
#[test]
fn states_of_whole_runtimes_are_shown() {
    let live = r#"{"schema": 1, "now_unix_seconds": 100.0,
        "incidents": [{"id": 1, "kind": "runtime_hung", "runtime": "a", "reason": "a hangs"}],
        "conditions": [
            {"kind": "runtime_hung", "runtime": "a", "reason": "a hangs, once more"},
            {"kind": "runtime_hung", "runtime": "b", "reason": "b \u001b[31mhangs"}],
        "runtimes": [{"name": "a", "alive": true, "workers": []}, {"name": "b", "alive": true, "workers": [], "driver_rescues": 3}],
        "late_runtimes": [
            {"runtime": "a", "reported_at_unix_seconds": 90.0, "delay_seconds": 0.3, "reason": "busy_workers",
             "polling": 0.5, "on_cpu": 0.97, "sites": [{"site": "src/main.rs:1:1", "share": 0.9}],
             "routes": [{"route": "/report", "share": 0.7}]},
            {"runtime": "b", "reported_at_unix_seconds": 30.0, "delay_seconds": 0.3, "reason": "no_cpu"}],
        "stalls": [{"id": 3, "victims": {"tasks": 2, "waited_seconds": 0.812}}],
        "sites": [{"site": "src/lost.rs:2:2", "unpolled_seconds": 90.0}]}"#;
    let table = text(&once(&answering("200 OK", live).to_string()).stdout);
    for wanted in [
        "incident #1: a hangs\n",
        "b \u{fffd}[31mhangs\n",
        "a: late 10.0 s ago, a woken task waited 300 ms without a stall; its workers were busy 97 %: src/main.rs:1:1 \
         (90 %), /report (70 %)\n",
        " · driver rescues: 3\n",
        "2 tasks, 812 ms",
        "not polled for",
        "90.0 s",
    ] {
        assert!(table.contains(wanted), "{wanted:?} in:\n{table}");
    }
    assert!(!table.contains("once more"), "the incident says it:\n{table}");
    assert!(!table.contains("b: late"), "it is a minute ago:\n{table}");
    let table = text(&once(&answering("200 OK", r#"{"schema": 1, "stalls": [{}], "sites": [{}]}"#).to_string()).stdout);
    assert!(!table.contains("waited behind it") && !table.contains("not polled for"), "{table}");
}

#[test]
fn errors_say_what_is_wrong_with_the_command_line() {
    let cases: [(&[&str], &str); 6] = [
        (&["top", "https://a:1"], "only http is supported"),
        (&["top", "--what"], "unexpected argument '--what'"),
        (&["top", "--interval"], "a value is required for '--interval <SECONDS>'"),
        (&["top", "--interval", "0"], "0 is not in 1..=60"),
        (&["bottom"], "unrecognized subcommand 'bottom'"),
        (&[], "Usage: pollwatch <COMMAND>"),
    ];
    for (args, wanted) in cases {
        let out = pollwatch(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(text(&out.stderr).contains(wanted), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn help_and_version_are_printed_to_standard_output() {
    let cases: [(&[&str], &[&str]); 4] = [
        (&["--help"], &["Usage: pollwatch <COMMAND>", "top "]),
        (
            &["top", "--help"],
            &["Usage: pollwatch top [OPTIONS] [URL]", "http://127.0.0.1:9464", "--once", "--interval"],
        ),
        (&["top", "-h"], &["[default: http://127.0.0.1:9464]"]),
        (&["--version"], &[concat!("pollwatch ", env!("CARGO_PKG_VERSION"))]),
    ];
    for (args, wanted) in cases {
        let out = pollwatch(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        for wanted in wanted {
            assert!(text(&out.stdout).contains(wanted), "{args:?}: {}", text(&out.stdout));
        }
    }
}

/// `pollwatch top` in a terminal that the program `script` makes for it.
struct Terminal {
    child: Child,
    output: mpsc::Receiver<Vec<u8>>,
    /// Output that no expectation has consumed.
    text: String,
}

impl Terminal {
    fn open(addr: SocketAddr, columns: usize, lines: usize) -> Terminal {
        let command =
            format!("stty cols {columns} rows {lines}; exec '{}' top {addr}", env!("CARGO_BIN_EXE_pollwatch"));
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                let _ = sender.send(buffer[..n].to_vec());
            }
        });
        Terminal { child, output, text: String::new() }
    }

    /// Waits for a text, and consumes the output up to its end.
    fn expect(&mut self, wanted: &str) -> String {
        wait_for(wanted, || {
            while let Ok(bytes) = self.output.try_recv() {
                self.text += &String::from_utf8_lossy(&bytes);
            }
            let end = self.text.find(wanted)? + wanted.len();
            Some(self.text.drain(..end).collect())
        })
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    fn exit_code(&mut self) -> i32 {
        wait_for("the program's end", || self.child.try_wait().unwrap()).code().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the terminal's latest output: {:?}", self.text);
        }
    }
}

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// Returns whether the program `script` is installed. If not, it reports that the test is skipped.
fn has_script() -> bool {
    let found = Command::new("script").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED: the program `script` is missing; Debian's package `bsdutils` has it");
    }
    found
}

#[test]
fn live_view_is_updated_and_the_terminal_is_restored() {
    if !has_script() {
        return;
    }
    let blocked = Blocked::new();
    // A wide terminal, a narrow one, and a tiny one.
    for ((columns, lines), key) in [((120, 40), "q"), ((30, 12), "\u{3}"), ((9, 3), "\u{1b}")] {
        let mut terminal = Terminal::open(blocked.addr, columns, lines);
        terminal.expect(ENTER);
        terminal.expect(if columns == 9 { "pollwatc…" } else { "pollwatch 0." });
        if columns == 120 {
            let mut shown = terminal.expect("BLOCKED");
            shown += &terminal.expect("so far");
            // The next answer is drawn as well.
            shown += &terminal.expect("BLOCKED");
            for raw in ["\u{1b}]0;", "\u{7}", "\u{9b}", "\u{202e}", "\u{1b}[2J"] {
                assert!(!shown.contains(raw), "{raw:?} in {shown:?}");
            }
        }
        terminal.press(key);
        terminal.expect(LEAVE);
        assert_eq!(terminal.exit_code(), 0);
    }
}

#[test]
fn live_view_reconnects_to_a_restarted_server() {
    if !has_script() {
        return;
    }
    let blocked = Blocked::new();
    let addr = blocked.addr;
    let mut terminal = Terminal::open(addr, 200, 30);
    terminal.expect("1 of 2 workers blocked");
    blocked.watchdog.shutdown();
    drop(blocked);
    terminal.expect("Retrying; q quits. The figures below are outdated.");
    let again = wait_for("the same address", || Watchdog::builder().log(false).listen(addr).start().ok());
    terminal.expect(&format!("(pid {})", std::process::id()));
    terminal.press("q");
    terminal.expect(LEAVE);
    assert_eq!(terminal.exit_code(), 0);
    again.shutdown();
}
