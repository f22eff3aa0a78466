use super::syscalls::LOG;
use super::*;
use crate::model::cause::Purpose;
use crate::model::lock::lock_noun;
use pollwatch_stack::Frame;

/// Names of library functions, innermost first, that an own function of the program called.
fn stack(leaf: &[&str]) -> Stack {
    let mut frames: Vec<Frame> = leaf.iter().map(|name| library_frame(name)).collect();
    frames.push(own_frame("app::Mutex_like", None));
    Stack::new(frames, true, |_| false)
}

fn library_frame(name: &str) -> Frame {
    let mut frame = own_frame(name, None);
    frame.library = true;
    frame
}

fn own_frame(name: &str, file: Option<&str>) -> Frame {
    let mut frame = Frame::default();
    (frame.function, frame.file) = (Some(name.into()), file.map(Into::into));
    frame
}

fn evidence<'a>(cause: Cause, syscall: Option<&'a Syscall>, stack: Option<&'a Stack>) -> ReasonEvidence<'a> {
    ReasonEvidence { cause, syscall, stack, kernel: KernelShare::Minor }
}

fn reason_of(cause: Cause, syscall: Option<&Syscall>, stack: Option<&Stack>) -> Reason {
    reason(evidence(cause, syscall, stack))
}

fn lock(leaf: &[&str]) -> &'static str {
    reason_of(Cause::Lock, None, Some(&stack(leaf))).text
}

fn call(name: &'static str, purpose: Purpose, target: &str) -> Syscall {
    Syscall { name: name.into(), target: Some(target.into()), purpose }
}

fn waits_in(name: &'static str, purpose: Purpose, target: &str) -> &'static str {
    reason_of(Cause::Syscall, Some(&call(name, purpose, target)), None).text
}

fn waits_below(name: &'static str, purpose: Purpose, leaf: &[&str]) -> &'static str {
    reason_of(Cause::Syscall, Some(&call(name, purpose, "pipe:[1]")), Some(&stack(leaf))).text
}

#[test]
fn locks_by_the_functions_near_the_leaf() {
    assert_eq!(lock(&["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended"]), "a Mutex");
    assert_eq!(lock(&["syscall", "std::sys::sync::rwlock::futex::RwLock::read_contended"]), "an RwLock");
    assert_eq!(lock(&["syscall", "std::sys::sync::condvar::futex::Condvar::wait"]), "a wait on a Condvar");
    assert_eq!(
        lock(&["syscall", "std::thread::park", "std::sync::mpmc::context::Context::wait_until"]),
        "a receive from a blocking channel"
    );
    assert_eq!(
        lock(&["syscall", "std::sys::sync::once::futex::Once::call", "deref"]),
        "a value that another thread is initialising"
    );
    assert_eq!(lock(&["pthread_join", "std::thread::JoinInner::join"]), "a wait for another thread's end");
    assert_eq!(lock(&[]), "a lock", "the user's own functions decide nothing");
    let advice = reason_of(Cause::Lock, None, None).advice.unwrap();
    assert!(advice.contains("tokio::sync::Mutex if the guard") && advice.contains("a shorter time"), "{advice}");
    let futex = Syscall { name: "futex".into(), target: None, purpose: Purpose::Futex };
    assert_eq!(reason_of(Cause::Syscall, Some(&futex), None).advice, Some(advice));
    assert_eq!(reason_of(Cause::Lock, None, None).text, "a lock");
}

/// The text about the holder names the lock, and never says that somebody holds a print or a query.
#[test]
fn only_locks_are_named_as_such() {
    let named = |text: &str| lock_noun(text) != "lock within it";
    let locks = super::locks::LOCKS.iter().map(|row| row.text).chain([super::locks::LOCK.text, "the Python GIL"]);
    locks.for_each(|text| assert!(named(text), "{text}"));
    let libraries = library::LIBRARIES.iter().map(|row| row.waiting).filter(|text| *text != "the Python GIL");
    let waits = super::locks::WAITS.iter().map(|row| row.reason.text);
    let all = waits.chain(libraries).chain([super::locks::PARK.reason.text, library::CHILD.text]);
    all.for_each(|text| assert!(!named(text), "{text}"));
    assert_eq!([lock_noun("an RwLock"), lock_noun("the Python GIL")], ["RwLock", "Python GIL"]);
}

#[test]
fn waits_within_libraries() {
    let condvar = "std::sys::sync::condvar::futex::Condvar::wait";
    assert_eq!(lock(&[condvar, "rayon_core::latch::LockLatch::wait_and_reset"]), "a wait for a rayon pool");
    assert_eq!(lock(&["pthread_cond_timedwait", "take_gil", "PyEval_RestoreThread"]), "the Python GIL");
    assert_eq!(lock(&["pthread_cond_timedwait"]), "a wait on a condition variable of C code");
    assert_eq!(lock(&["parking_lot_core::park", "dashmap::lock::RawRwLock::lock"]), "a shard of a DashMap");
    let mutex = "std::sys::sync::mutex::futex::Mutex::lock_contended";
    assert_eq!(lock(&[mutex, "tracing_subscriber::fmt::fmt_layer::Layer::on_event"]), LOG.text);
    assert_eq!(lock(&[mutex, "std::io::stdio::_print"]), "a print to standard output or error");
    assert_eq!(lock(&[mutex, "std::io::stdio::Stdin::lock"]), "a read from standard input");
    assert_eq!(lock(&[mutex, "tokio::sync::watch::Sender::send"]), "the value of a tokio::sync::watch channel");
    assert_eq!(lock(&[mutex, "tokio::loom::std::mutex::Mutex::lock"]), "a lock within tokio");
}

/// A function that the program's own code called decides, not one that called the program's code.
#[test]
fn functions_further_outwards_do_not_count() {
    let frames = |file| {
        let inner = [library_frame("std::sys::sync::mutex::futex::Mutex::lock"), own_frame("app::merge", file)];
        let outer = [library_frame("dashmap::DashMap::alter"), own_frame("app::handler", file)];
        Stack::new(inner.into_iter().chain(outer).collect(), true, |_| false)
    };
    let known = frames(Some("src/main.rs"));
    assert_eq!(reason_of(Cause::Lock, None, Some(&known)).text, "a Mutex");
    // Without debug information `app::merge` could be a function of a dependency.
    assert_eq!(reason_of(Cause::Lock, None, Some(&frames(None))).text, "a shard of a DashMap");
}

/// An async lock helps only where code can be made async.
#[test]
fn advice_for_locks_by_where_they_are() {
    let below = |outer: &[&str]| {
        let leaf = ["std::sys::sync::mutex::futex::Mutex::lock_contended"].iter().chain(outer);
        let names: Vec<&str> = leaf.copied().collect();
        reason_of(Cause::Lock, None, Some(&stack(&names))).advice.unwrap()
    };
    let worker = "tokio::runtime::scheduler::multi_thread::worker::run";
    let pool = "tokio::runtime::blocking::task::BlockingTask::poll";
    assert!(below(&[]).contains("tokio::sync::Mutex"));
    assert!(below(&[worker, pool]).contains("tokio::sync::Mutex"), "a worker is a task of the pool");
    assert!(!below(&[pool]).contains("tokio::sync"));
    let in_place = below(&["tokio::task::blocking::block_in_place", worker, pool]);
    assert!(in_place.contains("max_blocking_threads") && !in_place.contains("tokio::sync"), "{in_place}");
}

#[test]
fn calls_by_what_they_are_for_and_on() {
    assert_eq!(waits_in("read", Purpose::Io, "/var/data"), "a sync file read");
    assert_eq!(waits_in("pwritev2", Purpose::Io, "/var/data"), "a sync file write");
    assert_eq!(waits_in("fdatasync", Purpose::Io, "/var/data"), "a sync of a file to its disk");
    assert_eq!(waits_in("fallocate", Purpose::Io, "/var/data"), "a sync file call");
    assert_eq!(waits_in("readahead", Purpose::Io, "/var/data"), "a sync file call");
    assert_eq!(waits_in("read", Purpose::Io, "socket:[1]"), "a sync socket call");
    assert_eq!(waits_in("connect", Purpose::Socket, ""), "a sync socket call");
    assert_eq!(waits_in("write", Purpose::Io, "pipe:[1]"), "a sync pipe call");
    assert_eq!(waits_in("read", Purpose::Io, "anon_inode:[eventfd]"), "a sync read of an event descriptor");
    assert_eq!(waits_in("read", Purpose::Io, "/dev/pts/3"), "a sync terminal call");
    assert_eq!(waits_in("nanosleep", Purpose::Sleep, ""), "a sleep");
    assert_eq!(waits_in("openat", Purpose::File, ""), "a sync file call");
    assert_eq!(waits_in("wait4", Purpose::Child, ""), "a wait for a child process");
    assert_eq!(reason_of(Cause::Syscall, None, None).text, "a page of memory (a page fault)");
}

#[test]
fn calls_within_libraries() {
    let output = ["std::sys::process::read_output", "std::process::Child::wait_with_output"];
    assert_eq!(waits_below("poll", Purpose::Poll, &output), "a wait for a child process");
    let spawn = ["std::sys::process::unix::common::Command::spawn", "std::process::Command::output"];
    assert_eq!(waits_below("read", Purpose::Io, &spawn), "the start of a child process");
    assert_eq!(waits_below("write", Purpose::Io, &["std::io::stdio::_print"]), "a print to standard output or error");
    assert_eq!(waits_below("read", Purpose::Io, &["std::io::stdio::Stdin::read"]), "a read from standard input");
    assert_eq!(waits_below("write", Purpose::Io, &["tracing_subscriber::fmt::Layer::on_event"]), LOG.text);
    assert_eq!(waits_below("fdatasync", Purpose::Io, &["sqlite3_step"]), "a database call (SQLite)");
    assert_eq!(waits_below("poll", Purpose::Poll, &["PQexec"]), "a database call (libpq)");
    assert_eq!(waits_below("poll", Purpose::Poll, &["getaddrinfo"]), "a name look-up (DNS)");
    assert_eq!(waits_below("epoll_wait", Purpose::Poll, &["a::Runtime::block_on"]), "block_on inside a task");
    assert_eq!(waits_below("read", Purpose::Io, &["std::io::Read::read"]), "a sync pipe call");
}

/// The advice is about files only where the call is about one.
#[test]
fn other_calls_are_no_file_calls() {
    let about_files = |purpose| reason_of(Cause::Syscall, Some(&call("a call", purpose, "")), None).advice.unwrap();
    let about_descriptors = [Purpose::Io, Purpose::File, Purpose::FileLock];
    for &purpose in Purpose::ALL.iter().filter(|purpose| !about_descriptors.contains(purpose)) {
        assert!(!about_files(purpose).contains("tokio::fs"), "{purpose:?}");
    }
    assert_eq!(waits_in("syscall 1000", Purpose::Unknown, ""), "a system call");
}

fn computes(leaf: &[&str], kernel: KernelShare) -> &'static str {
    let stack = stack(leaf);
    let evidence = evidence(Cause::Cpu, None, Some(&stack));
    reason(ReasonEvidence { kernel, ..evidence }).text
}

#[test]
fn computing_in_the_kernel() {
    assert_eq!(computes(&["munmap", "cfree"], KernelShare::Most), "computing in the kernel: munmap");
    assert_eq!(computes(&["__libc_fork"], KernelShare::Most), "computing in the kernel: fork");
    assert_eq!(
        computes(&["__GI___libc_read"], KernelShare::MostWithPageFaults),
        "computing in the kernel: a read of cached data"
    );
    assert_eq!(
        computes(&["core::slice::fill"], KernelShare::MostWithPageFaults),
        "computing in the kernel: page faults"
    );
    assert_eq!(computes(&["an_ioctl"], KernelShare::Most), "computing in the kernel");
    assert_eq!(computes(&["munmap"], KernelShare::Minor), "computing", "most of its time was not in the kernel");
    assert_eq!(computes(&["munmap"], KernelShare::Likely), "computing in the kernel: munmap");
    assert_eq!(computes(&["app::spin"], KernelShare::Likely), "computing", "few samples say little");
    assert_eq!(computes(&["app::spin"], KernelShare::Fork), "computing in the kernel: fork");
    let without_stack = ReasonEvidence { kernel: KernelShare::Most, ..evidence(Cause::Cpu, None, None) };
    assert_eq!(reason(without_stack).text, "computing in the kernel");
}

#[test]
fn computing_within_libraries() {
    let glue = "core::ptr::drop_in_place";
    let computes = |leaf: &[&str]| computes(leaf, KernelShare::Minor);
    assert_eq!(computes(&["cfree", &format!("{glue}<[String]>")]), "dropping a large value");
    assert_eq!(computes(&["cfree", &format!("{glue}<[String; 2]>")]), "computing", "a loop that allocates");
    assert_eq!(computes(&["cfree", "drop_in_place<[String]>"]), "dropping a large value");
    assert_eq!(computes(&["cfree", &format!("{glue}<[Vec<[u8; 4]>]>")]), "dropping a large value");
    let node = format!("{glue}<app::Node>");
    assert_eq!(computes(&["cfree", &node, &node, &node]), "dropping a large value");
    assert_eq!(computes(&["cfree", &node]), "computing");
    let aborted = [&*node, "tokio::runtime::task::core::Core::set_stage"];
    assert_eq!(computes(&aborted), "dropping what an aborted or finished task owned");
    assert_eq!(computes(&[&node, "tokio::runtime::task::core::Core::poll"]), "computing");
    assert_eq!(computes(&["std::backtrace_rs::symbolize::gimli::resolve"]), "formatting the backtrace of a panic");
    assert_eq!(computes(&["std::backtrace::Backtrace::create"]), "resolving the backtrace of an error");
    assert_eq!(computes(&["sqlite3VdbeExec", "sqlite3_step"]), "computing in a database call (SQLite)");
    let body = "tower_http::compression_utils::WrapBody::poll_frame";
    assert_eq!(computes(&["flate2::mem::Compress::compress", body]), "compressing a response body in a layer");
}

#[test]
fn causes_outside_of_the_task_have_no_advice() {
    for cause in [Cause::Starved, Cause::Paused, Cause::Unknown] {
        assert_eq!(reason_of(cause, None, None).advice, None);
    }
}
