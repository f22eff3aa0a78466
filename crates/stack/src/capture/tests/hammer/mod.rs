//! A stress test: very many captures of threads that allocate, panic, spawn, end, load libraries
//! and compute in the kernel. Nothing crashes or hangs, and no capture returns the stack of another
//! thread or of another activity, however long it was pending.
//!
//! It makes 100,000 captures, or as many as fit in 20 s, and at least some of each thread. With
//! `POLLWATCH_HAMMER=N` it makes `N` without a time limit.

mod threads;

use std::collections::HashMap;

use super::super::guard::lock;
use super::*;
use threads::*;

const CAPTURES: u64 = 100_000;
const TIME: Duration = Duration::from_secs(20);
/// The time limit of the child process. 100,000 captures take half a minute, and ten times that on
/// a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// The results of the captures of one thread.
#[derive(Default)]
struct Outcomes {
    complete: u64,
    incomplete: u64,
    errors: HashMap<CaptureError, u64>,
    /// The number of complete stacks that lack the thread's own function.
    wrong: u64,
}

impl Outcomes {
    fn errors(&self, error: CaptureError) -> u64 {
        self.errors.get(&error).copied().unwrap_or(0)
    }

    fn all(&self) -> u64 {
        self.complete + self.incomplete + self.errors.values().sum::<u64>()
    }

    fn correct(&self) -> u64 {
        self.complete - self.wrong
    }
}

impl std::fmt::Display for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>6}, {} complete, {} incomplete", self.all(), self.complete, self.incomplete)?;
        self.errors.iter().try_for_each(|(error, count)| write!(f, ", {count} {error:?}"))?;
        if self.wrong > 0 { write!(f, ", {} of the complete ones wrong", self.wrong) } else { Ok(()) }
    }
}

/// A pending capture, with what it is of.
struct PendingOf {
    capture: PendingCapture,
    tid: Tid,
    poll: u64,
}

/// A thread to capture, and the poll that it is in.
struct Subjected {
    target: Target,
    kind: usize,
    activity: Activity,
    poll: u64,
}

struct Hammer {
    capturer: Capturer,
    /// The outcomes by kind, in the order of `FUNCTIONS`.
    outcomes: [Outcomes; KINDS],
    pending: [Option<PendingOf>; KINDS],
    /// The number of captures that stayed pending, and of those that gave a stack.
    pended: u64,
    collected: u64,
    cancelled: u64,
}

impl Hammer {
    fn all(&self) -> u64 {
        self.outcomes.iter().map(Outcomes::all).sum()
    }

    /// Captures a thread once, or collects its pending capture. Its stack has the function of its
    /// kind, unless the thread is starting or ending.
    fn capture(&mut self, subject: &Subjected) {
        let Subjected { target, kind, ref activity, poll } = *subject;
        let is_current = |poll| move || activity.value() == poll;
        match self.pending[kind].take() {
            Some(pending) if pending.tid != target.tid => {
                // The thread has ended, perhaps.
                self.cancelled += 1;
                drop(pending);
            }
            Some(pending) if pending.capture.is_ready() => {
                let result = self.capturer.collect(pending.capture, is_current(pending.poll));
                self.collected += u64::from(result.is_ok());
                self.check(result, kind, pending.poll);
            }
            // One in a hundred is cancelled early, at any moment of its copy.
            Some(pending) if !self.pended.is_multiple_of(100) => return self.pending[kind] = Some(pending),
            Some(_) => self.cancelled += 1,
            None => {}
        }
        let state = procfs::syscall(target.tid);
        match self.capturer.capture_or_wait(target, state, activity, is_current(poll)) {
            Ok(Capture::Taken(raw)) => self.check(Ok(raw), kind, poll),
            Ok(Capture::Pending(capture)) => {
                self.pended += 1;
                self.pending[kind] = Some(PendingOf { capture, tid: target.tid, poll });
            }
            Err(error) => self.check(Err(error), kind, poll),
        }
    }

    /// Checks the result of a capture in the given poll.
    fn check(&mut self, result: Result<RawStack, CaptureError>, kind: usize, poll: u64) {
        let outcomes = &mut self.outcomes[kind];
        let raw = match result {
            Ok(raw) => raw,
            Err(error) => return *outcomes.errors.entry(error).or_default() += 1,
        };
        if raw.is_complete() {
            outcomes.complete += 1
        } else {
            outcomes.incomplete += 1
        }
        let others = FUNCTIONS.iter().enumerate().filter(|(other, _)| *other != kind);
        let other_thread = others.into_iter().any(|(_, function)| is_on(&raw, function()));
        let is_even = usize::from(poll.is_multiple_of(2));
        let other_poll = match kind {
            0 => is_on(&raw, [allocates_evenly as *const () as usize, allocates_oddly as *const () as usize][is_even]),
            5 => is_on(&raw, [unmaps_evenly as *const () as usize, unmaps_oddly as *const () as usize][is_even]),
            _ => false,
        };
        assert!(!other_thread && !other_poll, "the stack of another thread or poll: {:#}", symbolized(&raw));
        if raw.is_complete() && kind != SHORT_LIVED && !is_on(&raw, FUNCTIONS[kind]()) {
            outcomes.wrong += 1;
            if outcomes.wrong < 5 {
                println!("wrong: {:#}", symbolized(&raw));
            }
        }
    }
}

#[test]
fn captures_harm_nobody() {
    in_child_process(module_path!(), "captures_harm_nobody", PATIENCE, || {
        let number = std::env::var("POLLWATCH_HAMMER").ok().map(|n| n.parse::<u64>().expect("a number of captures"));
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Deliberate>() {
                report(info);
            }
        }));
        hammer(number.unwrap_or(CAPTURES), number.is_none().then_some(TIME));
    });
}

const KINDS: usize = 6;
/// The kind of thread that may be starting or ending, or has ended.
const SHORT_LIVED: usize = 3;

/// The functions of the threads. None may be on another thread's stack.
const FUNCTIONS: [fn() -> usize; KINDS] = [
    || allocates as *const () as usize,
    || panics as *const () as usize,
    || spawns as *const () as usize,
    || lives_shortly as *const () as usize,
    || loads as *const () as usize,
    || computes_in_the_kernel as *const () as usize,
];
const NAMES: [&str; KINDS] = ["allocating", "panicking", "spawning", "short-lived", "loading", "in the kernel"];

/// The threads that are captured.
struct Fixture {
    /// The number of the poll of each thread. Only some count.
    numbers: [Arc<AtomicU64>; KINDS],
    latest: Arc<Mutex<Option<ShortLived>>>,
    /// The threads, in the order of `FUNCTIONS`. The spawning one starts the short-lived ones.
    subjects: [Option<Subject>; KINDS],
}

impl Fixture {
    fn start(kinds: &[usize]) -> Fixture {
        let numbers: [Arc<AtomicU64>; KINDS] = Default::default();
        let latest = Arc::new(Mutex::new(None));
        let library = library();
        let start = |kind: usize| {
            let (number, latest) = (numbers[kind].clone(), latest.clone());
            match kind {
                0 => Some(Subject::start(move |stop| allocates(stop, &number))),
                1 => Some(Subject::start(panics)),
                2 => Some(Subject::start(move |stop| spawns(stop, &latest))),
                4 => Some(Subject::start(move |stop| loads(stop, library))),
                5 => Some(Subject::start(move |stop| computes_in_the_kernel(stop, &number))),
                _ => None,
            }
        };
        let subjects = std::array::from_fn(|kind| kinds.contains(&kind).then(|| start(kind)).flatten());
        Fixture { numbers, latest, subjects }
    }

    /// Captures each thread once.
    fn capture_all(&self, hammer: &mut Hammer) {
        for (kind, subject) in self.subjects.iter().enumerate() {
            let Some(subject) = subject else { continue };
            let activity = Activity::new(self.numbers[kind].clone(), |number| number);
            let poll = activity.value();
            hammer.capture(&Subjected { target: subject.target, kind, activity, poll });
        }
        let short = lock(&self.latest).clone();
        if let Some(ShortLived { target, activity }) = short {
            let poll = activity.value();
            hammer.capture(&Subjected { target, kind: SHORT_LIVED, activity, poll });
        }
    }
}

fn hammer(captures: u64, time: Option<Duration>) {
    let start = Instant::now();
    let mut hammer = Hammer {
        capturer: Capturer::default(),
        outcomes: Default::default(),
        pending: Default::default(),
        pended: 0,
        collected: 0,
        cancelled: 0,
    };
    // Most captures are of one kind of thread alone, the rest of several at once. Each load of a
    // library makes the tables be read again, so there are fewer captures with that kind.
    let fixtures: [(&[usize], f64); 7] = [
        (&[0], 0.29),
        (&[1], 0.27),
        (&[2], 0.28),
        (&[0, 1, 2], 0.08),
        (&[0, 1, 2, 5], 0.03),
        (&[5], 0.03),
        (&[0, 1, 2, 4], 0.02),
    ];
    let mut share = 0.0;
    for (kinds, part) in fixtures {
        let (first, all) = (hammer.all(), (captures as f64 * part) as u64);
        share += part;
        let until = time.map(|time| start + time.mul_f64(share));
        let fixture = Fixture::start(kinds);
        // On a busy machine a thread may get no CPU for a long time.
        let all_kinds = || kinds.iter().chain(kinds.contains(&2).then_some(&3));
        let some = |hammer: &Hammer| all_kinds().all(|kind| hammer.outcomes[*kind].correct() > 0);
        while !some(&hammer) || hammer.all() - first <= all && until.is_none_or(|until| Instant::now() < until) {
            fixture.capture_all(&mut hammer);
        }
        hammer.pending = Default::default();
        println!("{kinds:?}: {} by {:?}", hammer.all() - first, start.elapsed());
    }
    for (name, outcomes) in NAMES.iter().zip(&hammer.outcomes) {
        println!("{name:>12}: {outcomes}");
    }
    println!("{} captures in {:?}", hammer.all(), start.elapsed());
    let Hammer { pended, collected, cancelled, .. } = hammer;
    println!("{pended} of them were pending, {collected} of which gave a stack, and {cancelled} were cancelled");
    assert!(collected > 0 && collected <= pended, "captures were pending");
    for (name, outcomes) in NAMES.iter().zip(&hammer.outcomes) {
        let (complete, torn) = (outcomes.correct(), outcomes.incomplete + outcomes.wrong);
        match *name {
            // Starting, ending, or ended.
            "short-lived" => continue,
            // The share of bad stacks among few captures is not significant. A slow machine makes
            // no more in this time.
            _ if complete + torn < 100 => println!("{name}: too few captures to judge"),
            // The code that resumes after a panic, and the loader, change the state that unwinding
            // relies on.
            "panicking" | "loading" => assert!(torn * 10 <= complete + torn, "{name}: {outcomes}"),
            _ => assert!(torn * 100 <= complete + torn && outcomes.wrong == 0, "{name}: {outcomes}"),
        }
        let unexpected = outcomes.errors(CaptureError::Unavailable) + outcomes.errors(CaptureError::Elsewhere);
        assert_eq!(unexpected, 0, "{name}: {outcomes}");
    }
}
