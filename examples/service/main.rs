//! The symptom: the latency of every route rises, and the CPUs are idle. Something blocks the event
//! loop.
//!
//! This axum service has two routes that block their worker (a render of 20 ms, an upstream called
//! with a blocking client), and a fixed version of each. It puts each route under load, and prints
//! the latencies that clients measured next to the stalls that pollwatch found.
//!
//! `cargo run --release --example service`, or with `-- --help`.

mod args;
mod load;
mod render;
mod report;
mod routes;
mod upstream;

use std::error::Error;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use pollwatch::{ErrorKind, Watchdog};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::time::uptime;

use crate::args::Args;
use crate::load::Load;
use crate::report::Phase;

/// Fixed, so that the effect is the same on every machine.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(text) => return refuse(&format!("{text}; --help lists the flags")),
    };
    log_to_stderr();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Address(text)) => refuse(&text),
        Err(Failure::Other(error)) => {
            eprintln!("service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    // A real service does this: start a watchdog, let it build the runtime, and serve as before.
    let watchdog = Watchdog::builder().listen(args.listen).start().map_err(|error| match error.kind() {
        ErrorKind::AddressInUse | ErrorKind::CannotListen => {
            cannot_listen("--listen", args.listen, &error.source().map(ToString::to_string).unwrap_or_default())
        }
        _ => error.into(),
    })?;
    let runtime = watchdog.runtime("main").worker_threads(WORKERS).enable_all().build()?;
    let listener = runtime
        .block_on(TcpListener::bind(args.serve))
        .map_err(|error| cannot_listen("--serve", args.serve, &error.to_string()))?;
    let service = listener.local_addr()?;
    let app = routes::router(&watchdog, upstream::start()?)?;
    runtime.spawn(async move { axum::serve(listener, app).await });

    // The rest of this function is the demonstration.
    let pages = watchdog.local_addr().ok_or("the watchdog has no server")?;
    println!("the service:  http://{service}  ({WORKERS} workers)");
    println!(
        "its pages:    http://{pages}/  (open it in a browser; also /metrics, /stalls and /healthz, which answer during the load)"
    );
    println!(
        "measured:     {}",
        match watchdog.coverage().hooks {
            true => "every task of the runtime (tokio_unstable is on)",
            false => "the tasks and futures given to `Watchdog::spawn` and `watch` (tokio_unstable is off)",
        }
    );
    if args.load {
        drive_load(&watchdog, &Load::new(service, pages)?, args.duration)?;
    }
    if !args.once {
        println!("\nRunning until Ctrl-C. To block a worker:  curl http://{service}/upstream/blocking");
        println!("The live page, in a browser:              http://{pages}/");
        runtime.block_on(tokio::signal::ctrl_c())?;
    }
    runtime.shutdown_background();
    Ok(())
}

/// Puts one route after the other under load, and prints the tables.
fn drive_load(watchdog: &Watchdog, load: &Load, duration: Duration) -> Result<(), Box<dyn Error>> {
    println!(
        "the load:     {} connections, {} s a route; stalls are logged as they are found\n",
        load::CONNECTIONS,
        duration.as_secs()
    );
    let mut phases = Vec::new();
    for (i, route) in routes::ROUTES.into_iter().enumerate() {
        println!("[{}/{}] {route} ...", i + 1, routes::ROUTES.len());
        let before = watchdog.snapshot();
        let outcome = load.drive(route, duration)?;
        // The client has its answer before the poll that sent it has ended and the watchdog has
        // counted it.
        thread::sleep(Duration::from_millis(100));
        phases.push(Phase { route, outcome, stalls: report::stalls_between(&before, &watchdog.snapshot()) });
    }
    report::print(&phases, watchdog.snapshot().watchdog.threshold, WORKERS);
    Ok(())
}

/// Logs to stderr, and leaves out the fields of each event, which a service would keep. `RUST_LOG`
/// sets the filter.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let sentence = debug_fn(|writer, field, value| match field.name() {
        "message" => writer.write_str(format!("{value:?}").trim_end()),
        _ => Ok(()),
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(sentence)
        .with_timer(uptime())
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
}

/// The reason why the demonstration could not run.
enum Failure {
    Address(String),
    Other(Box<dyn Error>),
}

impl<E: Into<Box<dyn Error>>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Other(error.into())
    }
}

fn cannot_listen(flag: &str, addr: SocketAddr, why: &str) -> Failure {
    Failure::Address(format!("cannot listen on {addr}: {why}; choose another with {flag} ADDR (port 0: any free port)"))
}

/// Reports a wrong command line, with the usual exit code 2.
fn refuse(text: &str) -> ExitCode {
    eprintln!("service: {text}");
    ExitCode::from(2)
}
