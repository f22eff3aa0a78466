//! Tests of the output of the example `service`, run as a user runs it.

mod common;

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn example(name: &str) -> Command {
    let mut command = Command::new(common::example(name));
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    example("service").args(args).output().expect("the example starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Returns the words of a route's row in the table below the line that starts with `title`: of its
/// first row, where there are several.
fn row<'a>(output: &'a str, title: &str, route: &str) -> Vec<&'a str> {
    let table = output.lines().skip_while(|line| !line.starts_with(title)).skip(1).take_while(|line| !line.is_empty());
    let mut rows = table.map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&route)).unwrap_or_else(|| panic!("no {route} below {title:?} in:\n{output}"))
}

/// Converts `0.4 ms` or `1.35 s` to seconds.
fn seconds(value: &str, unit: &str) -> f64 {
    let value: f64 = value.parse().expect("a number");
    match unit {
        "s" => value,
        "ms" => value / 1e3,
        _ => panic!("unit {unit:?}"),
    }
}

/// One attempt must succeed. Other processes may take CPU time, which is compared here.
const ATTEMPTS: usize = 5;

#[test]
fn stalls_are_found_on_the_blocking_routes_and_not_on_the_fixed_ones() {
    let disturbed: Vec<_> = (1..=ATTEMPTS).map_while(|i| attempt(i == ATTEMPTS).err()).collect();
    assert!(disturbed.len() < ATTEMPTS, "{}", disturbed.join("\n\n"));
}

/// Returns the comparison that does not hold. If pollwatch reports starvation in the last attempt,
/// too, renders are not compared by their stalls but by the latency of pings.
fn attempt(is_last: bool) -> Result<(), String> {
    let out = run(&["--once", "--seconds", "1", "--listen", "127.0.0.1:0", "--serve", "127.0.0.1:0"]);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{}\n{stdout}\n{stderr}", out.status);
    assert!(!stdout.contains(['\r', '\x1b']), "control characters in a pipe:\n{stdout:?}");

    // Time is compared and not the number of stalls: a worker without a CPU stalls as well, but
    // briefly.
    let blocked = |route: &str| match row(stdout, "what pollwatch found", route)[1..] {
        [_, value, unit, ..] => seconds(value, unit),
        _ => 0.0,
    };
    let rate = |route: &str| row(stdout, "what clients saw", route)[1].parse::<f64>().expect("a rate");
    let compared = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}\n{stdout}")) };
    for kind in ["/render", "/upstream"] {
        let (blocking, fixed) = (format!("{kind}/blocking"), format!("{kind}/fixed"));
        let (found, left) = (blocked(&blocking), blocked(&fixed));
        let excused = is_last && kind == "/render" && stderr.contains("(starved)");
        compared(
            found > 0.0 && (left * 4.0 < found || excused),
            &format!("{kind}: blocked for {found} s, then {left} s"),
        )?;
        let site = *row(stdout, "what pollwatch found", &blocking).last().expect("a site");
        let is_in_example = site.replace('\\', "/").starts_with("examples/service/routes.rs:");
        compared(is_in_example || excused, &format!("{blocking} at {site}"))?;
        compared(stderr.contains(site) || excused, &format!("no log line names {site}:\n{stderr}"))?;
        let route = format!("spawned under route {blocking} · ");
        compared(stderr.contains(&route) || excused, &format!("no log line names {blocking}:\n{stderr}"))?;
    }
    let sites = ["/render/blocking", "/upstream/blocking"].map(|r| row(stdout, "what pollwatch found", r)[4]);
    assert_ne!(sites[0], sites[1], "two routes, one site:\n{stdout}");
    // A render is the same work in both versions. Only the latency of other requests improves.
    let ping = |route: &str| {
        let row = row(stdout, "what clients saw", route);
        seconds(row[6], row[7])
    };
    compared(ping("/render/fixed") * 2.0 < ping("/render/blocking"), "pings beside renders")?;
    compared(ping("/upstream/fixed") * 2.0 < ping("/upstream/blocking"), "pings beside calls upstream")?;
    compared(rate("/upstream/fixed") > 2.0 * rate("/upstream/blocking"), "calls upstream")?;
    assert!(stdout.contains(" of 2 workers blocked at once"), "{stdout}");
    compared(!stdout.contains("up to 0 of"), "no scrape came during a block")
}

#[test]
fn an_address_that_cannot_be_bound_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("its address").to_string();
    // A documentation address, which is that of no machine.
    let foreign = "192.0.2.1:0".to_string();
    // The other flag gets a free port.
    for (flag, other) in [("--listen", "--serve"), ("--serve", "--listen")] {
        for (address, reason) in [(&taken, "Address already in use"), (&foreign, "Cannot assign requested address")] {
            let out = run(&["--once", "--seconds", "1", other, "127.0.0.1:0", flag, address]);
            let stderr = text(&out.stderr);
            assert_eq!(out.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(address) && stderr.contains(flag), "{stderr}");
            assert!(!cfg!(target_os = "linux") || stderr.contains(reason), "{stderr}");
            assert!(!stderr.contains("panicked"), "{stderr}");
        }
    }
}

#[test]
fn invalid_flags_are_errors() {
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
