//! Tests of the program `pollwatch threads`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use pollwatch::Watchdog;

fn threads(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pollwatch")).arg("threads").args(args).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A thread with a name that would set the title of the terminal, and add a thread to the list.
const MALICIOUS_NAME: &str = "\u{1b}]0;x\u{7}\n9 threads";

#[test]
fn the_threads_of_a_program_are_printed() {
    let watchdog = Watchdog::builder().log(false).listen("127.0.0.1:0").start().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let named = std::thread::Builder::new().name(MALICIOUS_NAME.into()).spawn(move || stopped.recv()).unwrap();
    let url = watchdog.local_addr().unwrap().to_string();
    let text = printed(&threads(&[&url]));
    assert!(text.contains(" threads at ") && text.contains("pollwatch-http"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
    // The first line has the number of threads.
    assert!(!text.lines().skip(1).any(|line| line.starts_with("9 thread")), "{text}");
    let json: serde_json::Value = serde_json::from_str(&printed(&threads(&["--json", &url]))).unwrap();
    let threads = json["groups"].as_array().unwrap().iter().flat_map(|group| group["threads"].as_array().unwrap());
    let names: Vec<_> = threads.map(|thread| thread["name"].as_str().unwrap()).collect();
    assert!(names.contains(&&MALICIOUS_NAME[..15]), "{names:?}");
    drop(stop);
    let _ = named.join().unwrap();
}

/// A server that answers every request with this status.
fn answering(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    addr
}

#[test]
fn a_server_without_thread_dumps_is_an_error() {
    let addr = answering("404 Not Found");
    let output = threads(&[&addr.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("answers with HTTP status 404"), "{error}");
    assert_eq!(threads(&["https://127.0.0.1"]).status.code(), Some(2));
}
