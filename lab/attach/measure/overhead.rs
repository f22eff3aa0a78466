//! The throughput of an HTTP server with and without `pollwatch attach`, in alternating runs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use attach_lab::target::Target;

use crate::Options;

/// The connections of the load, each on a thread of its own.
const CONNECTIONS: usize = 8;

/// The share of the throughput that has to be left.
const AIM: f64 = 0.99;

/// The time after its start in which nothing is counted: connections and caches become warm, and
/// pollwatch has read the symbols of the target.
const WARM: Duration = Duration::from_millis(700);

/// Prints the throughput of each pair of runs, and the mean of the ratios with its standard error.
/// The order within a pair alternates, so that a machine that becomes slower favours neither.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let seconds = (options.seconds.as_secs() + 30) * options.rounds * 2;
    let arguments = ["hello".to_owned(), "--seconds".to_owned(), seconds.to_string()];
    let target = Target::start(&options.target, &arguments).map_err(|error| format!("the target: {error}"))?;
    let (mut sums, mut ratios) = ([0.0; 2], Vec::new());
    println!("| pair | requests/s without | with | ratio |\n|---|---|---|---|");
    for round in 0..options.rounds {
        let mut rates = [0.0; 2];
        for is_attached in [round % 2 == 1, round % 2 == 0] {
            let attached = is_attached.then(|| attach(options, target.pid())).transpose()?;
            let rate = load(target.ready(), options.seconds).map_err(|error| format!("the load: {error}"))?;
            attached.map(detach).transpose()?;
            rates[usize::from(is_attached)] = rate;
            sums[usize::from(is_attached)] += rate;
        }
        let ratio = rates[1] / rates[0];
        println!("| {round} | {:.0} | {:.0} | {ratio:.3} |", rates[0], rates[1]);
        ratios.push(ratio);
    }
    let (mean, error) = mean_and_standard_error(&ratios);
    println!("\nmean of the ratios {mean:.4} ± {error:.4} (standard error); aim: at least {AIM}");
    println!("ratio of all runs {:.4}", sums[1] / sums[0]);
    Ok(())
}

/// Returns the geometric mean of ratios, and its standard error.
fn mean_and_standard_error(ratios: &[f64]) -> (f64, f64) {
    let count = ratios.len() as f64;
    let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / count;
    let variance = ratios.iter().map(|ratio| (ratio.ln() - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean.exp(), mean.exp() * (variance / count).sqrt())
}

/// Starts the program, and returns when it is attached.
fn attach(options: &Options, pid: u32) -> Result<Child, String> {
    let mut command = Command::new(&options.pollwatch);
    command.args(["attach", "--json", "--verbose", &format!("--threshold={}ms", options.threshold.as_millis())]);
    command.args(&options.arguments).arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", options.pollwatch.display()))?;
    let mut stdout = child.stdout.take().ok_or("no pipe")?;
    let mut first = [0];
    stdout.read_exact(&mut first).map_err(|_| "pollwatch has printed nothing")?;
    // The pipe stays open, and is read on.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    Ok(child)
}

/// Ends the program as Ctrl-C does.
fn detach(mut child: Child) -> Result<(), String> {
    // SAFETY: the child has not been waited for, so that the number is its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("pollwatch ended with {status}")) }
}

/// Returns the requests that were answered in each second.
fn load(address: &str, time: Duration) -> std::io::Result<f64> {
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| client(address, &stop, &answered))).collect();
        std::thread::sleep(WARM);
        let (first, at) = (answered.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(time);
        let (last, passed) = (answered.load(Ordering::Relaxed), at.elapsed());
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| std::io::Error::other("a client panicked"))??;
        }
        Ok((last - first) as f64 / passed.as_secs_f64())
    })
}

/// Sends one request after the other on one connection.
fn client(address: &str, stop: &AtomicBool, answered: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 1024];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut length = 0;
        while !buffer[..length].ends_with(b"Hello, World!") {
            match stream.read(&mut buffer[length..])? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => length += read,
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
