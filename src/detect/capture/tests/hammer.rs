//! Very many captures of threads that are in the middle of everything: nothing crashes or hangs, and no stack is another's.
//!
//! 100,000 captures, or as many as fit in 20 s, some of each at any rate; all of `POLLWATCH_HAMMER=N`.

use std::cell::Cell;
use std::ffi::CStr;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::util::lock;

const CAPTURES: u64 = 100_000;
const TIME: Duration = Duration::from_secs(20);
/// Only a hanging child takes that long: 100,000 captures take half a minute, and ten times that beside much else.
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

/// Polls, with a number each that is published before, as a slot does it; even and odd ones are told apart by their function.
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
        assert_eq!(dropped.get(), rounds * 31, "a panic unwinds as if nobody looked");
    }
}

#[inline(never)]
fn lives_shortly(latest: &Mutex<Option<Target>>) {
    let target = Target { tid: crate::sys::thread_id().unwrap(), stack: crate::sys::own_stack().unwrap() };
    *lock(latest) = Some(target);
    for _ in 0..20 {
        churns(black_box(3));
    }
}

#[inline(never)]
fn spawns(stop: &AtomicBool, latest: &Arc<Mutex<Option<Target>>>) {
    while !stop.load(Ordering::Relaxed) {
        let theirs = latest.clone();
        thread::spawn(move || lives_shortly(&theirs)).join().unwrap();
    }
}

/// A library that nothing else here uses; there is one wherever there is glibc.
fn library() -> &'static CStr {
    let names = [c"libz.so.1", c"libanl.so.1", c"libBrokenLocale.so.1", c"libthread_db.so.1", c"libnsl.so.1"];
    let is_new = |name: &&&CStr| {
        // SAFETY: a C string; nothing is loaded by the first, and what the second loads is unloaded.
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

/// How the captures of one thread ended.
#[derive(Default)]
struct Ends {
    outcomes: [u64; Outcome::ALL.len()],
    /// Complete, and without the thread's own function.
    astray: u64,
}

impl Ends {
    fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    fn all(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    fn complete(&self) -> u64 {
        self.of(Outcome::Ok) - self.astray
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>6}", self.all())?;
        let some = Outcome::ALL.iter().filter(|outcome| self.of(**outcome) > 0);
        some.into_iter().try_for_each(|outcome| write!(f, ", {} {}", self.of(*outcome), outcome.as_str()))?;
        if self.astray > 0 { write!(f, ", {} of them astray", self.astray) } else { Ok(()) }
    }
}

struct Hammer {
    capturer: Capturer,
    /// By `FUNCTIONS`.
    ends: [Ends; 5],
}

impl Hammer {
    fn all(&self) -> u64 {
        self.ends.iter().map(Ends::all).sum()
    }

    /// One capture, of a thread in the function of its `kind`: `always`, or it may be at its begin or end. Allocating ones are in the
    /// given poll.
    fn hit(&mut self, target: Target, kind: usize, always: bool, poll: u64, still: impl Fn() -> bool) {
        let (outcome, raw) = self.capturer.capture(target, procfs::syscall(target.tid), still);
        let ends = &mut self.ends[kind];
        ends.outcomes[outcome as usize] += 1;
        let Some(raw) = raw else { return };
        let others = FUNCTIONS.iter().enumerate().filter(|(other, _)| *other != kind);
        let wrong = others.into_iter().any(|(_, function)| is_on(&raw, function()));
        let polls = [allocates_evenly as *const () as usize, allocates_oddly as *const () as usize];
        let other_poll = kind == 0 && is_on(&raw, polls[usize::from(poll.is_multiple_of(2))]);
        assert!(!wrong && !other_poll, "another thread's or poll's: {:#}", symbols().stack(&raw));
        if outcome == Outcome::Ok && always && !is_on(&raw, FUNCTIONS[kind]()) {
            ends.astray += 1;
            if ends.astray < 5 {
                println!("astray: {:#}", symbols().stack(&raw));
            }
        }
    }
}

#[test]
fn captures_harm_nobody() {
    alone(module_path!(), "captures_harm_nobody", PATIENCE, || {
        let told = std::env::var("POLLWATCH_HAMMER").ok().map(|n| n.parse::<u64>().expect("a number of captures"));
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Deliberate>() {
                report(info);
            }
        }));
        hammer(told.unwrap_or(CAPTURES), told.is_none().then_some(TIME));
    });
}

/// The functions of the threads: none may be on another's stack.
const FUNCTIONS: [fn() -> usize; 5] = [
    || allocates as *const () as usize,
    || panics as *const () as usize,
    || spawns as *const () as usize,
    || lives_shortly as *const () as usize,
    || loads as *const () as usize,
];
const NAMES: [&str; 5] = ["allocating", "panicking", "spawning", "short-lived", "loading"];

/// What runs, and is captured.
struct Scene {
    number: Arc<AtomicU64>,
    latest: Arc<Mutex<Option<Target>>>,
    /// By `FUNCTIONS`; the short-lived ones are many.
    subjects: [Option<Subject>; 5],
}

impl Scene {
    fn start(kinds: &[usize]) -> Scene {
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
        Scene { number, latest, subjects }
    }

    /// One capture of each.
    fn hit(&self, hammer: &mut Hammer) {
        for (kind, subject) in self.subjects.iter().enumerate() {
            let Some(subject) = subject else { continue };
            let poll = self.number.load(Ordering::SeqCst);
            let still = || kind != 0 || self.number.load(Ordering::SeqCst) == poll;
            hammer.hit(subject.target, kind, true, poll, still);
        }
        let short = *lock(&self.latest);
        if let Some(short) = short {
            // It may be at its begin or end, or gone.
            hammer.hit(short, 3, false, 0, || true);
        }
    }
}

fn hammer(captures: u64, time: Option<Duration>) {
    let begin = Instant::now();
    let mut hammer = Hammer { capturer: Capturer::default(), ends: Default::default() };
    // Each alone, for many; then all at once. Whoever loads and unloads has the tables read again each time: fewer of that.
    let scenes: [(&[usize], f64); 5] =
        [(&[0], 0.31), (&[1], 0.28), (&[2], 0.29), (&[0, 1, 2], 0.1), (&[0, 1, 2, 4], 0.02)];
    let mut share = 0.0;
    for (kinds, part) in scenes {
        let (first, all) = (hammer.all(), (captures as f64 * part) as u64);
        share += part;
        let until = time.map(|time| begin + time.mul_f64(share));
        let scene = Scene::start(kinds);
        // On a busy machine a thread may not be given a CPU to answer on for as long.
        let kinds_hit = || kinds.iter().chain(kinds.contains(&2).then_some(&3));
        let some = |hammer: &Hammer| kinds_hit().all(|kind| hammer.ends[*kind].complete() > 0);
        while !some(&hammer) || hammer.all() - first <= all && until.is_none_or(|until| Instant::now() < until) {
            scene.hit(&mut hammer);
        }
        println!("{kinds:?}: {} by {:?}", hammer.all() - first, begin.elapsed());
    }
    for (name, ends) in NAMES.iter().zip(&hammer.ends) {
        println!("{name:>12}: {ends}");
    }
    println!("{} captures in {:?}", hammer.all(), begin.elapsed());
    for (name, ends) in NAMES.iter().zip(&hammer.ends) {
        let (complete, torn) = (ends.complete(), ends.of(Outcome::Incomplete) + ends.astray);
        match *name {
            // At its begin, at its end, or gone.
            "short-lived" => continue,
            // A share of a handful says nothing; a slow machine does not get further in this time.
            _ if complete + torn < 100 => println!("{name}: too few to judge"),
            // The code that lands after a panic, or loads, is in the middle of changing what a stack is told by.
            "panicking" | "loading" => assert!(torn * 10 <= complete + torn, "{name}: {ends}"),
            _ => assert!(torn * 100 <= complete + torn && ends.astray == 0, "{name}: {ends}"),
        }
        assert_eq!(ends.of(Outcome::Unavailable) + ends.of(Outcome::Elsewhere), 0, "{name}: {ends}");
    }
}
