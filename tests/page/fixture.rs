//! The services that the page is opened on: the example, started as a user starts it, and others.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The example `service`, without load of its own.
pub(crate) struct Example {
    child: Child,
    /// Kept open: the example would exit at a closed pipe.
    _output: BufReader<ChildStdout>,
    pub(crate) service: String,
    pub(crate) pages: String,
}

impl Example {
    pub(crate) fn start(listen: &str) -> Example {
        // Cargo does not pass the paths of examples to a test, but builds them next to it.
        let this = std::env::current_exe().expect("the path of this test");
        let name = format!("service{}", std::env::consts::EXE_SUFFIX);
        let found: Option<PathBuf> =
            this.ancestors().map(|folder| folder.join("examples").join(&name)).find(|path| path.is_file());
        let found = found
            .expect("no example: `cargo test` builds it; before `--test page` run `cargo build --example service`");
        let mut command = Command::new(found);
        command.args(["--no-load", "--listen", listen, "--serve", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the example starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut example = Example { child, _output: output, service: String::new(), pages: String::new() };
        let url = |line: &str| line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned);
        let mut line = String::new();
        while example._output.read_line(&mut line).expect("a line") > 0 {
            match line.split(':').next() {
                Some("the service") => example.service = url(&line).expect("its address"),
                Some("its pages") => {
                    example.pages = url(&line).expect("its pages' address");
                    return example;
                }
                _ => {}
            }
            line.clear();
        }
        panic!("the example printed no addresses");
    }

    /// Returns the address of its pages.
    pub(crate) fn listens(&self) -> String {
        self.pages.trim_start_matches("http://").trim_end_matches('/').to_owned()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves an app on a separate thread until the end of the test.
pub(crate) fn serve(app: axum::Router) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await
        })
    });
    addr
}
