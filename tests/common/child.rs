//! A server that a test starts: ready when it answers, ended and removed with its data when dropped.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use super::wait_for;

pub(crate) struct Server {
    child: Child,
    /// Where it answers.
    pub(crate) addr: SocketAddr,
    /// Its own folder.
    pub(crate) dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{} said:\n{}", self.dir.display(), self.said());
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Server {
    /// Starts it on a free port; `command` is given the address and an empty folder.
    pub(crate) fn start(name: &str, command: impl Fn(SocketAddr, &Path) -> Command) -> Server {
        for _ in 0..3 {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", addr.port()));
            std::fs::create_dir_all(&dir).unwrap();
            let log = File::create(dir.join("log")).unwrap();
            let child = command(addr, &dir).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
            let mut server = Server { child, addr, dir };
            let ready = wait_for(&format!("{name} to be ready, or to give up"), || {
                if server.child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                ureq::get(format!("http://{addr}/-/ready")).call().ok().map(|_| true)
            });
            if ready {
                return server;
            }
            // Somebody else has taken the free port meanwhile.
            eprintln!("{name} ended: {}", server.said());
        }
        panic!("{name} does not start");
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}
