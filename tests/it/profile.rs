//! Tests of the served profile: folded stacks, pprof, speedscope and a flame graph.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
#[cfg(all(feature = "capture", target_os = "linux", target_arch = "x86_64"))]
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use pollwatch::Watchdog;
use prost::Message;
use test_support::TIMEOUT;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// A threshold below the time slice of a busy machine, so that a computing task exceeds it.
pub(super) const THRESHOLD: Duration = Duration::from_millis(2);
/// A block that is, as a rule, found, examined and classified while it lasts.
const BLOCK: Duration = Duration::from_millis(60);
const PAGES: [&str; 4] = ["/stalls/folded", "/stalls/speedscope", "/stalls/flamegraph", "/debug/pprof/stalls"];

#[inline(never)]
fn render_rows() {
    let started = Instant::now();
    while started.elapsed() < BLOCK {
        std::hint::black_box((0..1_000_u64).fold(0, |sum, i| std::hint::black_box(sum + i)));
    }
}

#[inline(never)]
fn sleep_in_task() {
    std::thread::sleep(BLOCK);
    std::hint::black_box(());
}

#[inline(never)]
fn wait_for_lock() {
    let mutex = Mutex::new(());
    std::thread::scope(|scope| {
        let (send, held) = mpsc::channel();
        let mutex = &mutex;
        scope.spawn(move || {
            let _guard = mutex.lock();
            let _ = send.send(());
            std::thread::sleep(BLOCK);
        });
        let _ = held.recv();
        drop(std::hint::black_box(mutex.lock()));
    });
}

/// The function, its cause, and the function again as a pointer.
const BLOCKERS: [(&str, &str, fn()); 3] = [
    ("render_rows", "cpu", render_rows),
    ("sleep_in_task", "syscall", sleep_in_task),
    ("wait_for_lock", "lock", wait_for_lock),
];

/// Spawns a task. All tasks of these tests have this one site.
fn spawn(watchdog: &Watchdog, block: fn()) -> JoinHandle<()> {
    if cfg!(tokio_unstable) { tokio::spawn(async move { block() }) } else { watchdog.spawn(async move { block() }) }
}

pub(super) struct Service {
    watchdog: Watchdog,
    runtime: Runtime,
    addr: SocketAddr,
}

impl Service {
    pub(super) fn start(threshold: Duration, stacks: bool) -> Service {
        let watchdog = Watchdog::builder()
            .threshold(threshold)
            .capture_stacks(stacks)
            .log(false)
            .listen("127.0.0.1:0")
            .start()
            .unwrap();
        let runtime = watchdog.runtime("profiled").worker_threads(2).enable_all().build().unwrap();
        let addr = watchdog.local_addr().unwrap();
        Service { watchdog, runtime, addr }
    }

    /// Runs each blocking function once, one after the other.
    pub(super) fn block(&self) {
        let _guard = self.runtime.enter();
        for (_, _, block) in BLOCKERS {
            self.runtime.block_on(spawn(&self.watchdog, block)).unwrap();
        }
    }

    pub(super) fn request(&self, method: &str, path: &str) -> Response {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].into()).unwrap();
        Response { head: head.to_ascii_lowercase(), body: bytes.split_off(end + 4) }
    }

    fn text(&self, path: &str) -> String {
        let response = self.request("GET", path);
        assert!(response.head.starts_with("http/1.1 200"), "{path}: {}", response.head);
        String::from_utf8(response.body).unwrap()
    }

    fn pprof(&self) -> Vec<DecodedSample> {
        self.pprof_of("")
    }

    /// The samples of the profile that a query asks for.
    pub(super) fn pprof_of(&self, query: &str) -> Vec<DecodedSample> {
        let bytes = self.request("GET", &format!("/debug/pprof/stalls{query}")).body;
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        samples(&Profile::decode(&plain[..]).unwrap())
    }

    /// The sum of a metric over all series of the runtime.
    fn metric(&self, family: &str) -> f64 {
        let of = format!("pollwatch_{family}{{");
        let text = self.text("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(&of) && line.contains("runtime=\"profiled\""));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Blocks until the profile satisfies `wanted`, then waits until every stall is in it.
    pub(super) fn block_until(&self, wanted: impl Fn(&[DecodedSample]) -> bool) -> Vec<DecodedSample> {
        let started = Instant::now();
        loop {
            self.block();
            let samples = self.settled(started);
            if wanted(&samples) {
                return samples;
            }
            assert!(started.elapsed() < TIMEOUT, "not all that was wanted came: {samples:#?}");
        }
    }

    fn settled(&self, started: Instant) -> Vec<DecodedSample> {
        loop {
            // A stall counts when its end is found. The list has it from its start on.
            let is_over = !self.text("/stalls").contains("\"phase\":\"ongoing\"");
            let samples = self.pprof();
            let (count, ended) = (samples.iter().map(|t| t.count).sum::<i64>(), self.metric("stalls_total"));
            if count > 0 && count as f64 == ended && is_over {
                return samples;
            }
            assert!(started.elapsed() < TIMEOUT, "{count} of {ended} stalls are in the profile");
            std::thread::yield_now();
        }
    }
}

pub(super) struct Response {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

// The fields of pprof's profile.proto that the tests read.

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// A decoded sample.
#[derive(Debug)]
pub(super) struct DecodedSample {
    /// Each frame as `function file:line`, innermost first.
    stack: Vec<String>,
    labels: Vec<String>,
    pub(super) count: i64,
    pub(super) nanos: i64,
}

impl DecodedSample {
    fn is(&self, function: &str, cause: &str) -> bool {
        let has_label = self.labels.contains(&format!("cause={cause}"));
        has_label && self.stack.iter().any(|f| f.contains(function))
    }
}

fn samples(profile: &Profile) -> Vec<DecodedSample> {
    let text = |id: i64| &*profile.string_table[id as usize];
    let location = |id: &u64| {
        let line = &profile.location.iter().find(|l| l.id == *id).unwrap().line[0];
        let function = profile.function.iter().find(|f| f.id == line.function_id).unwrap();
        format!("{} {}:{}", text(function.name), text(function.filename), line.line)
    };
    let sample = |sample: &Sample| DecodedSample {
        stack: sample.location_id.iter().map(location).collect(),
        labels: sample.label.iter().map(|l| format!("{}={}", text(l.key), text(l.text))).collect(),
        count: sample.value[0],
        nanos: sample.value[1],
    };
    profile.sample.iter().map(sample).collect()
}

/// Parses folded stacks: each stack with its blocked microseconds.
fn folded(text: &str) -> Vec<(&str, u64)> {
    let line = |line: &'_ str| -> (usize, u64) {
        let at = line.rfind(' ').unwrap();
        (at, line[at + 1..].parse().unwrap())
    };
    text.lines().map(|l| (&l[..line(l).0], line(l).1)).collect()
}

/// Asserts that all four formats have the same time, and that it is the time in the metrics.
fn assert_formats_agree(service: &Service, samples: &[DecodedSample]) {
    let nanos: i64 = samples.iter().map(|t| t.nanos).sum();
    let count: i64 = samples.iter().map(|t| t.count).sum();
    let seconds = service.metric("stall_seconds_total");
    assert!((nanos as f64 / 1e9 - seconds).abs() < 1e-6 * count as f64, "{nanos} ns, but {seconds} s in the metrics");

    let text = service.text("/stalls/folded");
    let lines = folded(&text);
    let micros: u64 = lines.iter().map(|(_, micros)| micros).sum();
    assert!(micros.abs_diff(nanos as u64 / 1_000) <= 1 + lines.len() as u64, "{micros} µs, {nanos} ns");

    let speedscope: serde_json::Value = serde_json::from_str(&service.text("/stalls/speedscope")).unwrap();
    assert_eq!(speedscope["profiles"][0]["endValue"], nanos);

    let svg = service.text("/stalls/flamegraph");
    assert!(svg.contains(&format!(" in {count} stalls</text>")), "{svg}");
}

fn site(samples: &[DecodedSample]) -> String {
    let label = samples[0].labels.iter().find(|label| label.starts_with("site=")).unwrap();
    label.trim_start_matches("site=").to_owned()
}

#[test]
#[cfg(all(feature = "capture", target_os = "linux", target_arch = "x86_64"))]
fn stacks_are_summed_up_in_every_format() {
    let service = Service::start(THRESHOLD, true);
    let samples = service
        .block_until(|samples| BLOCKERS.iter().all(|(name, cause, _)| samples.iter().any(|t| t.is(name, cause))));
    assert_formats_agree(&service, &samples);

    let site = site(&samples);
    assert!(site.starts_with("tests/it/profile.rs:"), "{site}");
    for (name, cause, _) in BLOCKERS {
        let sample = samples.iter().find(|t| t.is(name, cause)).unwrap();
        assert!(sample.labels.contains(&"runtime=profiled".into()) && sample.labels.contains(&format!("site={site}")));
        let function = sample.stack.iter().find(|f| f.contains(name)).unwrap();
        let (_, line) = function.split_once(&format!("{name} tests/it/profile.rs:")).expect(function);
        assert!(line.parse::<u32>().unwrap() > 0, "{function}");
    }

    let text = service.text("/stalls/folded");
    let speedscope = service.text("/stalls/speedscope");
    let svg = service.text("/stalls/flamegraph");
    for (name, cause, _) in BLOCKERS {
        let prefix = format!("profiled;{site};");
        assert!(folded(&text).iter().any(|(stack, _)| stack.starts_with(&prefix) && stack.contains(name)), "{text}");
        assert!(speedscope.contains(name) && speedscope.contains(&site), "{speedscope}");
        let boxes = svg.split("<g>").filter(|part| part.contains(name));
        // A box has the colour of the cause with the most time, which may be that of a moment at
        // which the thread was between two calls.
        let time = |cause: &str| samples.iter().filter(|t| t.is(name, cause)).map(|t| t.nanos).sum::<i64>();
        let colour = if time("unknown") > time(cause) { "unknown" } else { cause };
        assert!(boxes.clone().any(|part| part.contains(&format!("class=\"{colour}\""))), "{name} in {svg}");
    }
    assert!(svg.contains(&site));
    assert_go_reads_it(&service);
}

/// Asserts that `go tool pprof`, if it is installed, can read the profile.
#[cfg(all(feature = "capture", target_os = "linux", target_arch = "x86_64"))]
fn assert_go_reads_it(service: &Service) {
    if Command::new("go").arg("version").output().is_err() {
        test_support::skipped("no `go` here, so `go tool pprof` did not read the profile");
        return;
    }
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("stalls.pb.gz");
    std::fs::write(&file, service.request("GET", "/debug/pprof/stalls").body).unwrap();
    let pprof = |option: &str| {
        let output = Command::new("go").args(["tool", "pprof", option]).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let (top, tags) = (pprof("-top"), pprof("-tags"));
    for (name, cause, _) in BLOCKERS {
        assert!(top.contains(name), "{top}");
        assert!(tags.contains(cause), "{tags}");
    }
    assert!(top.contains("Type: blocked"), "{top}");
}

#[test]
fn without_stacks_the_cause_is_the_innermost_frame() {
    let service = Service::start(THRESHOLD, false);
    let ends =
        |samples: &[DecodedSample], cause: &str| samples.iter().any(|t| t.is(&format!("[no stack: {cause}]"), cause));
    // A sleeping thread can be distinguished from a computing one only on Linux.
    let wanted: &[&str] = if cfg!(target_os = "linux") { &["cpu", "syscall", "lock"] } else { &["unknown"] };
    let samples = service.block_until(|samples| wanted.iter().all(|cause| ends(samples, cause)));
    assert_formats_agree(&service, &samples);
    let (site, text) = (site(&samples), service.text("/stalls/folded"));
    for cause in wanted {
        let stack = format!("profiled;{site};[no stack: {cause}]");
        assert!(folded(&text).iter().any(|(s, micros)| *s == stack && *micros > 0), "{text}");
        assert!(service.text("/stalls/speedscope").contains(&format!("[no stack: {cause}]")));
        assert!(service.text("/stalls/flamegraph").contains(&format!("[no stack: {cause}]")));
    }
}

#[test]
fn the_profile_is_empty_while_nothing_blocks_long_enough() {
    let service = Service::start(Duration::from_secs(3600), true);
    service.block();
    assert_eq!(service.text("/stalls/folded"), "");
    assert!(service.pprof().is_empty());
    assert!(service.text("/stalls/flamegraph").contains("No stalls so far"));
    let speedscope: serde_json::Value = serde_json::from_str(&service.text("/stalls/speedscope")).unwrap();
    assert_eq!(speedscope["profiles"][0]["weights"], serde_json::json!([]));
}

#[test]
fn each_page_has_its_type_and_its_methods() {
    let service = Service::start(THRESHOLD, true);
    let index = service.text("/");
    let types =
        ["text/plain; charset=utf-8", "application/json", "image/svg+xml; charset=utf-8", "application/octet-stream"];
    for (path, kind) in PAGES.into_iter().zip(types) {
        assert!(index.contains(&format!("href=\"{}\"", path.trim_start_matches('/'))), "{path} is linked");
        let (get, head) = (service.request("GET", path), service.request("HEAD", path));
        assert!(get.head.contains(&format!("content-type: {kind}\r\n")), "{}", get.head);
        assert!(get.head.contains("x-content-type-options: nosniff"));
        assert!(head.head.starts_with("http/1.1 200") && head.body.is_empty());
        assert!(service.request("POST", path).head.starts_with("http/1.1 405"));
        assert!(service.request("GET", &format!("{path}/")).head.starts_with("http/1.1 404"));
    }
    assert!(service.request("GET", PAGES[0]).head.contains("x-unit: microseconds"));
}
