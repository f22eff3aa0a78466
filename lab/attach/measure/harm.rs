//! Attaches and detaches `pollwatch attach` again and again, and kills it at random moments, while
//! the target verifies itself.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use attach_lab::rng::Rng;
use attach_lab::target::Target;
use serde_json::Value;

use crate::Options;

/// The longest time from the start of the program to the signal that kills it.
const MAX_MILLIS: f64 = 150.0;
/// The longest time from the moment at which it is attached to the signal that detaches it.
const MAX_ATTACHED_MILLIS: f64 = 50.0;
/// The time limit of each start, on average. On a busy machine each takes some seconds.
const LIMIT_OF_EACH: Duration = Duration::from_secs(10);

/// What was done to a target.
#[derive(Default)]
struct Done {
    killed: u64,
    /// The starts that had ended before they were killed.
    ended_before: u64,
    detached: u64,
    scans: u64,
    stops: u64,
    /// The longest stop of a thread of the target, in seconds. Those of killed ones are not known.
    longest_stop: f64,
    rounds: u64,
}

impl Done {
    fn add(&mut self, other: &Done) {
        self.killed += other.killed;
        self.ended_before += other.ended_before;
        self.detached += other.detached;
        self.scans += other.scans;
        self.stops += other.stops;
        self.longest_stop = self.longest_stop.max(other.longest_stop);
        self.rounds += other.rounds;
    }
}

/// Prints what was done. An error says what the target found.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let lanes = options.lanes.max(1);
    let start = Instant::now();
    let all: Vec<Result<Done, String>> = std::thread::scope(|scope| {
        let lane = |lane| scope.spawn(move || run_lane(options, lane, lanes));
        let handles: Vec<_> = (0..lanes).map(lane).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|_| Err("a lane panicked".into()))).collect()
    });
    let mut sum = Done::default();
    for done in all {
        sum.add(&done?);
    }
    let Done { killed, ended_before, detached, scans, stops, longest_stop, rounds } = sum;
    println!(
        "{:.0} s, {lanes} targets: {detached} attached and detached ({scans} scans, {stops} stops of threads, the longest \
         {:.2} ms); {killed} killed by SIGKILL ({ended_before} had ended before); the targets have verified {rounds} rounds",
        start.elapsed().as_secs_f64(),
        longest_stop * 1000.0
    );
    Ok(())
}

/// Does the share of one lane, with a target of its own.
fn run_lane(options: &Options, lane: u64, lanes: u64) -> Result<Done, String> {
    let share = |all: u64| all / lanes + u64::from(lane < all % lanes);
    let (kills, detaches) = (share(options.kills), share(options.detaches));
    let starts = kills + detaches;
    let limit = options.seconds.max(LIMIT_OF_EACH * u32::try_from(starts).unwrap_or(u32::MAX));
    let arguments = ["checks", "--seconds", &limit.as_secs().to_string(), "--wait", "yes"];
    let mut target = Target::start(&options.target, &arguments).map_err(|error| format!("the target: {error}"))?;
    let mut rng = Rng::new(options.seed + lane);
    let (start, mut done) = (Instant::now(), Done::default());
    for i in 0..starts {
        // The kills are spread evenly among the detaches.
        if (i + 1) * kills / starts > i * kills / starts {
            kill(options, &target, &mut rng, &mut done)?;
        } else {
            detach(options, &target, &mut rng, &mut done)?;
        }
        if start.elapsed() > limit {
            return Err(format!("only {i} of {starts} were started in {limit:?}"));
        }
    }
    target.proceed().map_err(|error| error.to_string())?;
    let (status, printed) = target.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("the target was disturbed: {}, {status}", printed.trim_end()));
    }
    let rounds = printed.split_whitespace().next().and_then(|rounds| rounds.parse().ok());
    done.rounds = rounds.ok_or_else(|| format!("the target has printed {printed:?}"))?;
    Ok(done)
}

/// Starts the program, with a threshold that makes it read and stop threads as often as possible.
fn attach(options: &Options, target: &Target, stdout: Stdio) -> Result<Child, String> {
    let mut command = Command::new(&options.pollwatch);
    command.args(["attach", "--json", "--threshold=1ms"]).args(&options.arguments).arg(target.pid().to_string());
    let child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).spawn();
    child.map_err(|error| format!("{}: {error}", options.pollwatch.display()))
}

fn signal(child: &Child, number: i32) {
    // SAFETY: the child has not been waited for, so that the number is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, number) };
}

/// Kills the program at a random moment, be it attached or not.
fn kill(options: &Options, target: &Target, rng: &mut Rng, done: &mut Done) -> Result<(), String> {
    let mut child = attach(options, target, Stdio::null())?;
    std::thread::sleep(Duration::from_secs_f64(rng.between(0.0, MAX_MILLIS) / 1000.0));
    signal(&child, libc::SIGKILL);
    let status = child.wait().map_err(|error| error.to_string())?;
    done.killed += 1;
    done.ended_before += u64::from(status.code().is_some());
    Ok(())
}

/// Ends the program as Ctrl-C does, at a random moment after it has attached.
fn detach(options: &Options, target: &Target, rng: &mut Rng, done: &mut Done) -> Result<(), String> {
    let mut child = attach(options, target, Stdio::piped())?;
    let mut stdout = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut first = String::new();
    stdout.read_line(&mut first).map_err(|error| error.to_string())?;
    if parse(&first)["event"] != "attached" {
        let status = child.wait().map_err(|error| error.to_string())?;
        return Err(format!("pollwatch has not attached: {status}, {first:?}"));
    }
    std::thread::sleep(Duration::from_secs_f64(rng.between(0.0, MAX_ATTACHED_MILLIS) / 1000.0));
    signal(&child, libc::SIGINT);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    let summary = parse(rest.lines().last().unwrap_or_default());
    if !status.success() || summary["event"] != "summary" {
        return Err(format!("pollwatch has not detached: {status}, {rest:?}"));
    }
    done.detached += 1;
    done.scans += summary["scans"].as_u64().unwrap_or(0);
    done.stops += summary["stops"].as_u64().unwrap_or(0);
    done.longest_stop = done.longest_stop.max(summary["longest_stop_seconds"].as_f64().unwrap_or(0.0));
    Ok(())
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or(Value::Null)
}
