//! The example `service`, run as a user runs it.

#![cfg(feature = "server")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// cargo names no example to a test, but builds them next to it: target/PROFILE/deps/THIS, target/PROFILE/examples/service.
fn example() -> Command {
    let this = std::env::current_exe().expect("the path of this test");
    let name = format!("service{}", std::env::consts::EXE_SUFFIX);
    let found: Option<PathBuf> =
        this.ancestors().map(|folder| folder.join("examples").join(&name)).find(|path| path.is_file());
    let mut command = Command::new(
        found.expect("no example: `cargo test` builds it; before `--test NAME` run `cargo build --example service`"),
    );
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    example().args(args).output().expect("the example starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The line of a route in the table below the line that begins with `title`, cut into words: the first, where a phase has several.
fn row<'a>(output: &'a str, title: &str, route: &str) -> Vec<&'a str> {
    let table = output.lines().skip_while(|line| !line.starts_with(title)).skip(1).take_while(|line| !line.is_empty());
    let mut rows = table.map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&route)).unwrap_or_else(|| panic!("no {route} below {title:?} in:\n{output}"))
}

/// `0.4 ms`, `1.35 s`: in seconds.
fn seconds(value: &str, unit: &str) -> f64 {
    let value: f64 = value.parse().expect("a number");
    match unit {
        "s" => value,
        "ms" => value / 1e3,
        _ => panic!("unit {unit:?}"),
    }
}

#[test]
fn tells_the_blocking_routes_from_the_fixed_ones() {
    let out = run(&["--once", "--seconds", "1", "--listen", "127.0.0.1:0", "--serve", "127.0.0.1:0"]);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{}\n{stdout}\n{stderr}", out.status);
    assert!(!stdout.contains(['\r', '\x1b']), "control characters in a pipe:\n{stdout:?}");

    let stalls = |route: &str| row(stdout, "what pollwatch found", route)[1].parse::<u64>().expect("a count");
    let rate = |route: &str| row(stdout, "what clients saw", route)[1].parse::<f64>().expect("a rate");
    for kind in ["/render", "/upstream"] {
        let (blocking, fixed) = (format!("{kind}/blocking"), format!("{kind}/fixed"));
        let (found, left) = (stalls(&blocking), stalls(&fixed));
        assert!(found > 0 && left * 4 < found, "{kind}: {found} stalls, then {left}\n{stdout}");
        let place = *row(stdout, "what pollwatch found", &blocking).last().expect("a place");
        assert!(place.replace('\\', "/").starts_with("examples/service/routes.rs:"), "{blocking} at {place}\n{stdout}");
        assert!(stderr.contains(place), "no log line names {place}:\n{stderr}");
        assert!(
            stderr.contains(&format!("spawned under route {blocking} · ")),
            "no log line names {blocking}:\n{stderr}"
        );
    }
    let places = ["/render/blocking", "/upstream/blocking"].map(|r| row(stdout, "what pollwatch found", r)[4]);
    assert_ne!(places[0], places[1], "two routes, one place:\n{stdout}");
    // The render is the same work on the same CPUs, wherever it runs: only its neighbours gain.
    let ping = |route: &str| {
        let row = row(stdout, "what clients saw", route);
        seconds(row[6], row[7])
    };
    assert!(ping("/render/fixed") * 2.0 < ping("/render/blocking"), "{stdout}");
    assert!(ping("/upstream/fixed") * 2.0 < ping("/upstream/blocking"), "{stdout}");
    assert!(rate("/upstream/fixed") > 2.0 * rate("/upstream/blocking"), "{stdout}");
    assert!(stdout.contains(" of 2 workers blocked at once") && !stdout.contains("up to 0 of"), "{stdout}");
}

#[test]
fn refuses_an_address_in_use() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("its address").to_string();
    // What the flag not under test gets is free.
    for (flag, other) in [("--listen", "--serve"), ("--serve", "--listen")] {
        let out = run(&["--once", "--seconds", "1", other, "127.0.0.1:0", flag, &taken]);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(&taken) && stderr.contains(flag), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn refuses_flags_that_make_no_sense() {
    let wrong: [&[&str]; 6] = [
        &["--what"],
        &["--seconds", "0"],
        &["--seconds"],
        &["--listen", "9464"],
        &["--serve"],
        &["--once", "--no-load"],
    ];
    for args in wrong {
        let out = run(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(text(&out.stderr).contains(args[0]), "{args:?}: {}", text(&out.stderr));
    }
    let help = run(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("--no-load"));
}
