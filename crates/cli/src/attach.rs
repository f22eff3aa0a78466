//! The subcommand `pollwatch attach`: what blocks the runtimes of another process, which need not
//! have pollwatch inside.

mod log;
mod once;
mod output;
mod process;
mod profile_file;
mod summary;
mod words;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pollwatch::attach::{Attach, Attached};
use pollwatch::{Profile, Stall};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::text::{note, seconds};
use log::PrintEvents;
use output::Output;
use process::{FindError, Inside, ProcessInfo};
use profile_file::OpenProfile;
use summary::{Location, SuspectedLocations};
use words::ProfileFile;

/// The time between two checks for a signal, and for a reader that has gone.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The time after which it is an observation that a process has no runtime.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(2);

/// The version of the objects that `--json` prints.
const SCHEMA: u64 = 1;

/// Watch a running process that knows nothing of pollwatch, from outside
///
/// Finds the Tokio runtimes of the process by the stacks of its threads, and prints what blocks
/// them: the cause, the function and line, and what to do. The process is neither changed nor
/// restarted. A thread that waits is never stopped. One that runs is stopped for at most 1 ms at a
/// time, and 1 % of the time in all, unless --no-stop is given. Needs the permission to trace the
/// process: be the same user with kernel.yama.ptrace_scope 0, or root, or have CAP_SYS_PTRACE.
///
/// What is not known from outside: the task's id, where it was spawned, its route, and the exact
/// moment at which it started to block. A process that has the library pollwatch inside knows these
/// of itself. If it serves them, this command prints its address and fails, unless --force is
/// given: two observers cost twice.
///
/// Ends at Ctrl-C, SIGTERM, or the end of the process, with a summary of the worst locations.
#[derive(clap::Args)]
#[command(verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct AttachArgs {
    /// Id of the process, or its name: that of the process, of its executable, or a whole word of
    /// its command line
    #[arg(value_name = "PID|NAME")]
    target: String,

    /// Report what blocks for at least this long: 1ms to 1h
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = words::parse_threshold)]
    threshold: Duration,

    /// End after this time, such as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = words::parse_duration)]
    duration: Option<Duration>,

    /// Print only what is blocked now, and exit with 3 if anything is, suspected stalls included
    #[arg(long, conflicts_with_all = ["listen", "output"])]
    once: bool,

    /// Print one JSON object a line (docs/attach.md lists them)
    #[arg(long)]
    json: bool,

    /// Never stop a thread, so that code that computes is not found
    #[arg(long)]
    no_stop: bool,

    /// Watch threads outside of the runtimes as well; for programs without symbols
    #[arg(long)]
    all_threads: bool,

    /// Serve the live page, /metrics, /stalls, /threads and profiles at this IP address and port,
    /// such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDR", value_parser = words::parse_address)]
    listen: Option<SocketAddr>,

    /// Write the blocked time by stack to a file at the end: .folded for flame graph tools, .json
    /// for speedscope.app
    #[arg(short, long, value_name = "FILE", value_parser = words::parse_profile_file)]
    output: Option<ProfileFile>,

    /// Print at the end what watching cost: scans, stops of threads, CPU time
    #[arg(short, long)]
    verbose: bool,

    /// Attach although the process has pollwatch inside
    #[arg(long)]
    force: bool,
}

const EXIT_CODES: &str = "\
Exit codes: 0 when it ended as asked or with the process; 1 when the process was not found or may
not be read, or another error; 2 when the command line is wrong. With --once: 0 when nothing is
blocked; 3 when something is, or is suspected to be; 1 also when it is not known, as without a Tokio
runtime.";

/// The exit code of `--once` when something is blocked.
const IS_BLOCKED: u8 = 3;

/// The reason why `pollwatch attach` failed.
#[derive(Debug)]
pub(crate) enum AttachCommandError {
    Find(FindError),
    /// The process serves what this command would find.
    HasServer {
        label: String,
        address: SocketAddr,
    },
    Attach(pollwatch::Error),
    Signals(io::Error),
    Profile {
        file: ProfileFile,
        error: io::Error,
    },
    Write(io::Error),
}

impl fmt::Display for AttachCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachCommandError::Find(error) => error.fmt(f),
            AttachCommandError::HasServer { label, address } => write!(
                f,
                "{label} has pollwatch inside, which knows more than can be read from outside: open http://{address}/ or run \
                 `pollwatch top http://{address}`. With --force this command attaches nevertheless."
            ),
            AttachCommandError::Attach(error) => match process::explain(error) {
                Some(text) => f.write_str(&text),
                None => write!(f, "{error:#}"),
            },
            AttachCommandError::Signals(error) => write!(f, "cannot handle signals: {error}"),
            AttachCommandError::Profile { file, error } => write!(f, "cannot write {}: {error}", file.path.display()),
            AttachCommandError::Write(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl std::error::Error for AttachCommandError {}

/// Executes the subcommand.
pub(crate) fn run(args: &AttachArgs) -> Result<ExitCode, AttachCommandError> {
    let process = process::find(&args.target).map_err(AttachCommandError::Find)?;
    point_inside(&process, args.force || args.once)?;
    // The signals are handled before anything is attached, so that there is always a summary.
    let is_ended = handle_signals().map_err(AttachCommandError::Signals)?;
    // A file that cannot be written is an error now, and not after an hour.
    let profile = args.output.as_ref().map(OpenProfile::open).transpose()?;
    let output = Arc::new(Output::new(args.json));
    let code = match args.once {
        true => once::run(args, &process, &output, &is_ended)?,
        false => watch(args, &process, &output, &is_ended, profile)?,
    };
    output.take_failure().map_or(Ok(code), |error| Err(AttachCommandError::Write(error)))
}

/// Points to the library in a process that has it.
fn point_inside(process: &ProcessInfo, goes_on: bool) -> Result<(), AttachCommandError> {
    let label = format!("{} ({})", process.label(), process.pid);
    match process::inside(process.pid) {
        Inside::Nothing => Ok(()),
        Inside::Server(address) if !goes_on => Err(AttachCommandError::HasServer { label, address }),
        Inside::Server(address) => {
            note(&format!("pollwatch attach: {label} has pollwatch inside: http://{address}/ has more than this"));
            Ok(())
        }
        Inside::Watchdog => {
            note(&format!(
                "pollwatch attach: {label} has pollwatch inside, without a server; its own log has more than this"
            ));
            Ok(())
        }
    }
}

/// Makes Ctrl-C and SIGTERM set a flag. A second one ends this process at once.
fn handle_signals() -> io::Result<Arc<AtomicBool>> {
    let is_ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, is_ended.clone())?;
        signal_hook::flag::register(signal, is_ended.clone())?;
    }
    Ok(is_ended)
}

/// Returns the settings that the command line gives.
fn settings(args: &AttachArgs, process: &ProcessInfo) -> Attach {
    let attach = Attach::new(process.pid.0).threshold(args.threshold);
    attach.stop(!args.no_stop).all_threads(args.all_threads)
}

/// Attaches. The error says which permission is missing and how to get it.
fn start(attach: Attach) -> Result<Attached, AttachCommandError> {
    attach.start().map_err(AttachCommandError::Attach)
}

/// Watches until the process or the user ends it.
fn watch(
    args: &AttachArgs,
    process: &ProcessInfo,
    output: &Arc<Output>,
    is_ended: &AtomicBool,
    file: Option<OpenProfile>,
) -> Result<ExitCode, AttachCommandError> {
    // No other subscriber is set in this program.
    let _ = tracing::subscriber::set_global_default(PrintEvents::new(output.clone()));
    let suspected = Arc::new(SuspectedLocations::default());
    let (json, locations) = (args.json.then(|| output.clone()), suspected.clone());
    let mut attach = settings(args, process).on_stall(move |stall| {
        locations.add(stall);
        if let Some(output) = &json {
            output.json(&stall_object(stall));
        }
    });
    if let Some(address) = args.listen {
        attach = attach.listen(address);
    }
    let started = Instant::now();
    let attached = start(attach)?;
    announce(args, process, &attached, output);
    let reason = wait(args, &attached, output, is_ended, started);
    let coverage = attached.snapshot().watchdog.coverage.to_string();
    attached.detach();
    let profile = attached.profile();
    let watched = Watched { reason, time: started.elapsed(), coverage, suspected: suspected.sorted() };
    summarize(args, process, &attached, output, &profile, &watched);
    if let Some(file) = file {
        file.write(&profile)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How the watch ended, how long it was, what it has covered, and what it has suspected.
struct Watched {
    reason: String,
    time: Duration,
    coverage: String,
    suspected: Vec<Location>,
}

/// Says that the process is watched.
fn announce(args: &AttachArgs, process: &ProcessInfo, attached: &Attached, output: &Output) {
    let address = attached.local_addr();
    let first = json!({
        "event": "attached",
        "schema": SCHEMA,
        "pid": process.pid.0,
        "name": process.label(),
        "threshold_seconds": args.threshold.as_secs_f64(),
        "address": address.map(|address| address.to_string()),
    });
    output.begin(args.json.then_some(&first));
    let label = process.label();
    let page = address.map(|address| format!(", http://{address}/")).unwrap_or_default();
    note(&format!("pollwatch attach: watching {label} ({}){page}; Ctrl-C ends", process.pid));
}

/// Waits until the process, a signal, the duration or the reader ends the watch. Returns which.
fn wait(args: &AttachArgs, attached: &Attached, output: &Output, is_ended: &AtomicBool, started: Instant) -> String {
    let mut is_noted = false;
    loop {
        if !is_noted && started.elapsed() > RUNTIME_TIMEOUT {
            is_noted = true;
            note_missing_runtime(attached);
        }
        let left = args.duration.map(|duration| duration.saturating_sub(started.elapsed()));
        if let Some(ended) = attached.wait(Some(left.unwrap_or(CHECK_INTERVAL).min(CHECK_INTERVAL))) {
            return ended.to_string();
        }
        if is_ended.load(Ordering::Relaxed) {
            return "ended by a signal".into();
        }
        if output.has_no_reader() {
            return "the output was closed".into();
        }
        if left.is_some_and(|left| left.is_zero()) {
            return "the duration is over".into();
        }
    }
}

/// Says that nothing can be found, where that is so.
fn note_missing_runtime(attached: &Attached) {
    let snapshot = attached.snapshot();
    if snapshot.runtimes.is_empty() {
        let coverage = snapshot.watchdog.coverage.to_string().replace('\n', "; ");
        note(&format!("pollwatch attach: no Tokio runtime has been found in it so far ({coverage})"));
    }
}

fn stall_object(stall: &Stall) -> Value {
    let mut value = serde_json::to_value(stall).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.insert("event".into(), "stall".into());
    }
    value
}

/// Prints the end: the worst locations, and what was not observed.
fn summarize(
    args: &AttachArgs,
    process: &ProcessInfo,
    attached: &Attached,
    output: &Output,
    profile: &Profile,
    watched: &Watched,
) {
    let locations = summary::locations(profile);
    let Watched { reason, time, coverage, suspected: suspected_locations } = watched;
    let stalls: u64 = locations.iter().map(|location| location.stalls).sum();
    let blocked: Duration = locations.iter().map(|location| location.blocked).sum();
    let suspected = summary::suspected(&attached.snapshot());
    let (stops, scans, cpu) = (attached.stops(), attached.scans(), process::own_cpu_time().unwrap_or_default());
    if args.json {
        output.json(&json!({
            "event": "summary",
            "reason": reason,
            "seconds": time.as_secs_f64(),
            "stalls": stalls,
            "blocked_seconds": blocked.as_secs_f64(),
            "suspected_stalls": suspected.count,
            "suspected_seconds": suspected.time.as_secs_f64(),
            "locations": summary::json(&locations),
            "suspected_locations": summary::json(suspected_locations),
            "coverage": coverage.lines().collect::<Vec<_>>(),
            "scans": scans,
            "stops": stops.count,
            "longest_stop_seconds": stops.longest.as_secs_f64(),
            "stopped_seconds": stops.total.as_secs_f64(),
            "cpu_seconds": cpu.as_secs_f64(),
        }));
    } else {
        output.text(&format!(
            "\n{} ({}), {}: {reason}. {stalls} stalls, {} of blocked time{}\n{}what was observed, and what was not:\n{}",
            process.label(),
            process.pid,
            seconds(time.as_secs_f64()),
            seconds(blocked.as_secs_f64()),
            summary::suspected_text(&suspected),
            summary::tables(&locations, suspected_locations),
            coverage.lines().map(|line| format!("  {line}\n")).collect::<String>()
        ));
    }
    if args.verbose {
        let (share, own) = (stops.total.as_secs_f64() / time.as_secs_f64(), cpu.as_secs_f64() / time.as_secs_f64());
        note(&format!(
            "pollwatch attach: {scans} scans; {} stops of running threads, the longest {}, {:.2} % of the time in all; {} CPU \
             time of pollwatch ({:.1} % of one CPU)",
            stops.count,
            seconds(stops.longest.as_secs_f64()),
            share * 100.0,
            seconds(cpu.as_secs_f64()),
            own * 100.0
        ));
    }
}

/// Returns what all threads of a process do, as text or JSON, for `pollwatch threads`.
pub(crate) fn thread_dump(target: &str, no_stop: bool, is_json: bool) -> Result<String, AttachCommandError> {
    let process = process::find(target).map_err(AttachCommandError::Find)?;
    let dump = pollwatch::attach::threads(process.pid.0, !no_stop).map_err(AttachCommandError::Attach)?;
    // Numbers and texts are always JSON.
    Ok(if is_json { serde_json::to_string_pretty(&dump).unwrap_or_default() } else { dump.to_string() })
}
