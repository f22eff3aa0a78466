//! A server process: started on a free port, ready when it answers, removed with its data on drop.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use crate::{scratch, wait_for};

/// A server process and its data.
pub(crate) struct Server {
    child: Child,
    /// The address on which it answers.
    pub(crate) addr: SocketAddr,
    /// The folder with its data and its log.
    pub(crate) dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log in {}:\n{}", self.dir.display(), self.log());
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Server {
    /// Starts a server on a free port. `command` gets the address and an empty folder.
    pub(crate) fn start(name: &str, command: impl Fn(SocketAddr, &Path) -> Command) -> Server {
        for _ in 0..3 {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let dir = scratch(&format!("{name}-{}", addr.port()));
            let log = File::create(dir.join("log")).unwrap();
            let child = command(addr, &dir).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
            let mut server = Server { child, addr, dir };
            let ready = wait_for(&format!("{name} is ready or has ended"), || {
                if server.child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                ureq::get(format!("http://{addr}/-/ready")).call().ok().map(|_| true)
            });
            if ready {
                return server;
            }
            // Another process may have taken the port in the meantime.
            eprintln!("{name} ended: {}", server.log());
        }
        panic!("{name} did not start in three attempts");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}
