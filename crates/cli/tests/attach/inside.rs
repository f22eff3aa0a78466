//! A process that has pollwatch inside.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use pollwatch::Watchdog;

use crate::support::error_line;

const ROLE: &str = "POLLWATCH_TEST_CHILD";

/// What a child process runs: a watchdog, with a server if asked for, until it is killed.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut builder = Watchdog::builder().log(false);
    if role == "server" {
        builder = builder.listen("127.0.0.1:0");
    }
    let watchdog = builder.start().unwrap();
    let runtime = watchdog.build_runtime("main", tokio::runtime::Builder::new_multi_thread()).unwrap();
    println!("\nADDRESS {:?}", watchdog.local_addr());
    runtime.block_on(std::future::pending::<()>());
}

struct Service {
    child: Child,
    address: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn service(role: &str) -> Service {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "inside::child", "--nocapture"]).env(ROLE, role).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.map(Result::unwrap).find_map(|line| Some(line.strip_prefix("ADDRESS ")?.to_owned())).unwrap();
    let address = address.trim_start_matches("Some(").trim_end_matches(')').to_owned();
    Service { child, address }
}

fn attach(words: &[&str], service: &Service) -> std::process::Output {
    let pid = service.child.id().to_string();
    let words: Vec<_> = ["attach"].iter().chain(words).copied().chain([&*pid]).collect();
    crate::support::command(&words).output().unwrap()
}

#[test]
fn its_address_is_named() {
    let service = service("server");
    let error = error_line(&attach(&[], &service), 1);
    assert!(
        error.contains(" has pollwatch inside") && error.contains(&format!("http://{}/", service.address)),
        "{error}"
    );
    assert!(error.contains("--force"), "{error}");
    let forced = attach(&["--force", "--duration", "300ms"], &service);
    assert!(forced.status.success(), "{forced:?}");
    let note = String::from_utf8(forced.stderr).unwrap();
    assert!(note.contains(&format!("http://{}/", service.address)), "{note}");
}

#[test]
fn one_without_a_server_is_attached_to() {
    let service = service("alone");
    let output = attach(&["--duration", "300ms"], &service);
    assert!(output.status.success(), "{output:?}");
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(note.contains("has pollwatch inside, without a server"), "{note}");
}
