//! The environment, the exit code and the standard error of a program with `#[pollwatch::main]`.

use std::net::TcpListener;
use std::process::{Command, Output};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_program"));
    for name in ["POLLWATCH", "POLLWATCH_LISTEN", "POLLWATCH_THRESHOLD"] {
        command.env_remove(name);
    }
    command
}

/// What a program has printed, and how it has ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    lines: Vec<String>,
    error: String,
}

fn run(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let lines = String::from_utf8(stdout).unwrap().lines().map(str::to_owned).collect();
    Ended { code: status.code(), lines, error: String::from_utf8(stderr).unwrap() }
}

impl Ended {
    #[track_caller]
    fn has(&self, line: &str) -> &Ended {
        assert!(self.lines.iter().any(|known| known == line), "{line}: {self:?}");
        self
    }

    /// Asserts that the program has printed no error. It has no subscriber, so a machine that gives
    /// it no CPU for 20 ms has it print that a stall, which it was, went unlogged.
    #[track_caller]
    fn is_well(&self) -> &Ended {
        let is_error = |line: &&str| !line.starts_with("pollwatch has found a stall, and nothing takes its log line");
        let errors: Vec<&str> = self.error.lines().filter(is_error).collect();
        assert_eq!((self.code, &errors[..]), (Some(0), &[][..]), "{self:?}");
        self.has("done")
    }
}

#[test]
fn the_arguments_are_used() {
    let ended = run(&mut program());
    ended.is_well().has("threshold 20ms").has("runtime program").has("workers 2");
    assert!(ended.lines.iter().any(|line| line.starts_with("listens at 127.0.0.1:")), "{ended:?}");
}

#[test]
fn the_environment_wins_over_the_arguments() {
    let ended = run(program().env("POLLWATCH_THRESHOLD", "1.5s").env("POLLWATCH_LISTEN", "[::1]:0"));
    ended.has("done").has("threshold 1.5s");
    // A machine may be without IPv6. Then the address is refused, which is the next test.
    let is_at = |line: &String| line.starts_with("listens at [::1]:");
    assert!(ended.lines.iter().any(is_at) || ended.error.contains("cannot listen on [::1]:0"), "{ended:?}");
    run(program().env("POLLWATCH_LISTEN", "off")).is_well().has("no server").has("threshold 20ms");
    run(program().env("POLLWATCH_LISTEN", "").env("POLLWATCH", "on")).is_well().has("threshold 20ms");
}

#[test]
fn off_means_a_runtime_without_pollwatch() {
    let ended = run(program().env("POLLWATCH", "off").env("POLLWATCH_THRESHOLD", "nonsense").arg("blocks"));
    ended.is_well().has("no watchdog").has("workers 2");
    // Elsewhere a layer without a watchdog logs a warning.
    let ended = run(program().env("POLLWATCH", "off").arg("serves"));
    assert_eq!((ended.has("no watchdog").has("done").code, &*ended.error), (Some(0), ""));
}

#[test]
fn nonsense_in_the_environment_is_one_line_and_exit_code_1() {
    for (name, value, why) in [
        ("POLLWATCH", "yes please", "write off or on"),
        ("POLLWATCH_THRESHOLD", "10", "write a number with the unit us, ms or s, such as 10ms"),
        ("POLLWATCH_THRESHOLD", "0ms", "the threshold must be from 100µs to 3600s, not 0ns; 10ms suits a service"),
        ("POLLWATCH_THRESHOLD", "3601s", "the threshold must be from 100µs to 3600s, not 3601s; 10ms suits a service"),
        ("POLLWATCH_LISTEN", "everywhere", "write an IP address and a port, such as 127.0.0.1:9464, or off"),
    ] {
        let ended = run(program().env(name, value));
        let expected = format!("pollwatch: the environment variable {name} is {value:?}: {why}\n");
        assert_eq!((ended.code, ended.error, ended.lines.len()), (Some(1), expected, 0));
    }
}

#[test]
fn a_service_starts_without_pages_where_the_address_is_in_use() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let ended = run(program().env("POLLWATCH_LISTEN", address.to_string()));
    ended.has("done").has("no server").has("runtime program");
    assert_eq!((ended.code, ended.error.lines().count()), (Some(0), 1), "{}", ended.error);
    assert!(ended.error.starts_with(&format!("pollwatch: cannot listen on {address}: ")), "{}", ended.error);
    assert!(ended.error.ends_with("The service starts without pollwatch's pages\n"), "{}", ended.error);
}

#[test]
fn the_exit_code_is_that_of_the_function() {
    assert_eq!(run(program().arg("fails")).code, Some(7));
    let panicked = run(program().arg("panics"));
    assert_eq!(panicked.code, Some(101), "{panicked:?}");
    assert!(panicked.error.contains("on purpose"), "{panicked:?}");
}
