//! A stress test: very many captures of threads that allocate, panic, spawn, end and load
//! libraries. Nothing crashes or hangs, and no capture returns the stack of another thread.
//!
//! It makes 100,000 captures, or as many as fit in 20 s, and at least some of each thread. With
//! `POLLWATCH_HAMMER=N` it makes `N` without a time limit.

use std::cell::Cell;
use std::ffi::CStr;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::guard::lock;
use super::*;
use std::collections::HashMap;

const CAPTURES: u64 = 100_000;
const TIME: Duration = Duration::from_secs(20);
/// The time limit of the child process. 100,000 captures take half a minute, and ten times that on
/// a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

#[inline(never)]
fn churns(kind: u8) {
    for size in [24, 400, 10_000, 300_000] {
        let mut lists: Vec<Vec<u8>> = (0..20).map(|more| vec![kind; size + more]).collect();
        black_box(&mut lists);
    }
}

#[inline(never)]
fn allocates_evenly() {
    churns(black_box(2));
    black_box(());
}

#[inline(never)]
fn allocates_oddly() {
    churns(black_box(1));
    black_box(());
}

/// Runs numbered "polls". Each publishes its number first. Even and odd ones call different
/// functions.
#[inline(never)]
fn allocates(stop: &AtomicBool, number: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let poll = number.fetch_add(1, Ordering::SeqCst) + 1;
        if poll.is_multiple_of(2) { allocates_evenly() } else { allocates_oddly() }
    }
}

struct Guard<'a>(&'a Cell<u64>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.set(black_box(self.0.get() + 1));
    }
}

/// The payload of a panic that is part of the test.
struct Deliberate;

#[inline(never)]
fn dives(depth: u32, dropped: &Cell<u64>) -> u32 {
    let _guard = Guard(dropped);
    if depth == 0 {
        std::panic::panic_any(Deliberate);
    }
    black_box(dives(black_box(depth - 1), dropped)) + 1
}

#[inline(never)]
fn panics(stop: &AtomicBool) {
    let dropped = Cell::new(0);
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let caught = catch_unwind(AssertUnwindSafe(|| dives(30, &dropped)));
        assert!(caught.unwrap_err().is::<Deliberate>());
        rounds += 1;
        assert_eq!(dropped.get(), rounds * 31, "captures do not affect how a panic unwinds");
    }
}

#[inline(never)]
fn lives_shortly(latest: &Mutex<Option<Target>>) {
    *lock(latest) = Target::current();
    for _ in 0..20 {
        churns(black_box(3));
    }
}

#[inline(never)]
fn spawns(stop: &AtomicBool, latest: &Arc<Mutex<Option<Target>>>) {
    while !stop.load(Ordering::Relaxed) {
        let latest = latest.clone();
        thread::spawn(move || lives_shortly(&latest)).join().unwrap();
    }
}

/// Returns a library that is not loaded yet. At least one of these is part of every glibc.
fn library() -> &'static CStr {
    let names = [c"libz.so.1", c"libanl.so.1", c"libBrokenLocale.so.1", c"libthread_db.so.1", c"libnsl.so.1"];
    let is_new = |name: &&&CStr| {
        // SAFETY: a C string. The first call loads nothing, and what the second loads is unloaded.
        unsafe {
            let loaded = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            loaded.is_null() && !handle.is_null() && libc::dlclose(handle) == 0
        }
    };
    names.iter().find(is_new).expect("a library to load")
}

#[inline(never)]
fn loads(stop: &AtomicBool, library: &CStr) {
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: a C string; nothing of the library is used.
        unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null());
            assert_eq!(libc::dlclose(handle), 0);
        }
    }
}

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

struct Hammer {
    capturer: Capturer,
    /// The outcomes by kind, in the order of `FUNCTIONS`.
    outcomes: [Outcomes; 5],
}

impl Hammer {
    fn all(&self) -> u64 {
        self.outcomes.iter().map(Outcomes::all).sum()
    }

    /// Captures a thread once. Its stack has the function of its `kind`: `always`, or unless the
    /// thread is starting or ending. An allocating thread is in the given poll.
    fn capture(&mut self, target: Target, kind: usize, always: bool, poll: u64, is_current: impl Fn() -> bool) {
        let result = self.capturer.capture_if_current(target, procfs::syscall(target.tid), is_current);
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
        let polls = [allocates_evenly as *const () as usize, allocates_oddly as *const () as usize];
        let other_poll = kind == 0 && is_on(&raw, polls[usize::from(poll.is_multiple_of(2))]);
        assert!(!other_thread && !other_poll, "the stack of another thread or poll: {:#}", symbolized(&raw));
        if raw.is_complete() && always && !is_on(&raw, FUNCTIONS[kind]()) {
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

/// The functions of the threads. None may be on another thread's stack.
const FUNCTIONS: [fn() -> usize; 5] = [
    || allocates as *const () as usize,
    || panics as *const () as usize,
    || spawns as *const () as usize,
    || lives_shortly as *const () as usize,
    || loads as *const () as usize,
];
const NAMES: [&str; 5] = ["allocating", "panicking", "spawning", "short-lived", "loading"];

/// The threads that are captured.
struct Fixture {
    number: Arc<AtomicU64>,
    latest: Arc<Mutex<Option<Target>>>,
    /// The threads, in the order of `FUNCTIONS`. The spawning one starts the short-lived ones.
    subjects: [Option<Subject>; 5],
}

impl Fixture {
    fn start(kinds: &[usize]) -> Fixture {
        let (number, latest) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let library = library();
        let start = |kind| {
            let (number, latest) = (number.clone(), latest.clone());
            match kind {
                0 => Some(Subject::start(move |stop| allocates(stop, &number))),
                1 => Some(Subject::start(panics)),
                2 => Some(Subject::start(move |stop| spawns(stop, &latest))),
                4 => Some(Subject::start(move |stop| loads(stop, library))),
                _ => None,
            }
        };
        let subjects = std::array::from_fn(|kind| kinds.contains(&kind).then(|| start(kind)).flatten());
        Fixture { number, latest, subjects }
    }

    /// Captures each thread once.
    fn capture_all(&self, hammer: &mut Hammer) {
        for (kind, subject) in self.subjects.iter().enumerate() {
            let Some(subject) = subject else { continue };
            let poll = self.number.load(Ordering::SeqCst);
            let is_current = || kind != 0 || self.number.load(Ordering::SeqCst) == poll;
            hammer.capture(subject.target, kind, true, poll, is_current);
        }
        let short = *lock(&self.latest);
        if let Some(short) = short {
            // The thread may be starting or ending, or may have ended.
            hammer.capture(short, 3, false, 0, || true);
        }
    }
}

fn hammer(captures: u64, time: Option<Duration>) {
    let start = Instant::now();
    let mut hammer = Hammer { capturer: Capturer::default(), outcomes: Default::default() };
    // Most captures are of one kind of thread alone, the rest of several at once. Each load of a
    // library makes the tables be read again, so there are fewer captures with that kind.
    let fixtures: [(&[usize], f64); 5] =
        [(&[0], 0.31), (&[1], 0.28), (&[2], 0.29), (&[0, 1, 2], 0.1), (&[0, 1, 2, 4], 0.02)];
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
        println!("{kinds:?}: {} by {:?}", hammer.all() - first, start.elapsed());
    }
    for (name, outcomes) in NAMES.iter().zip(&hammer.outcomes) {
        println!("{name:>12}: {outcomes}");
    }
    println!("{} captures in {:?}", hammer.all(), start.elapsed());
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
