//! Stacks of threads in system calls that are read from outside equal those that the threads copy
//! themselves in the signal handler, which are the ground truth.

use std::hint::black_box;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Condvar;

use super::*;

const CAPTURES: usize = 500;

/// The locks on which the threads block until the process ends with the test.
static MUTEX: Mutex<()> = Mutex::new(());
static CONDVAR: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader.into(), writer.into())
}

#[inline(never)]
fn sleeps_long() {
    // No other function has the same code: the compiler would merge them.
    thread::sleep(Duration::from_secs(3601));
    black_box(());
}

#[inline(never)]
fn locks_a_mutex() {
    drop(MUTEX.lock());
    black_box(());
}

#[inline(never)]
fn waits_for_a_condvar() {
    drop(CONDVAR.1.wait_while(CONDVAR.0.lock().unwrap(), |done| !*done));
    black_box(());
}

#[inline(never)]
fn receives() {
    let (send, receive) = mpsc::channel::<()>();
    let _ = receive.recv();
    drop(send);
}

#[inline(never)]
fn joins() {
    let _ = thread::spawn(|| thread::sleep(Duration::from_secs(3600))).join();
    black_box(());
}

#[inline(never)]
fn reads_a_pipe() {
    let (reader, _writer) = pipe();
    let mut buffer = [0u8; 100];
    // SAFETY: the buffer has that length.
    unsafe { libc::read(reader.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    black_box(buffer);
}

#[inline(never)]
fn writes_to_a_full_pipe() {
    let (_reader, writer) = pipe();
    let buffer = vec![0u8; 1 << 20];
    // SAFETY: the buffer has that length. The signal interrupts the call once.
    while unsafe { libc::write(writer.as_raw_fd(), buffer.as_ptr().cast(), buffer.len()) } > 0 {}
    black_box(buffer);
}

#[inline(never)]
fn polls() {
    let (reader, _writer) = pipe();
    let mut fd = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor. The signal interrupts the call once.
    while unsafe { libc::poll(&mut fd, 1, -1) } < 0 {}
}

#[inline(never)]
fn accepts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _ = listener.accept();
    black_box(());
}

#[inline(never)]
fn reads_a_socket_with_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3600))).unwrap();
    // The signal interrupts the call once.
    while std::io::Read::read(&mut stream, &mut [0; 8]).is_err() {}
}

#[inline(never)]
fn waits_for_a_child() {
    // The child ends with this process, because its input ends then.
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let _input = child.stdin.take();
    let _ = child.wait();
}

/// Keeps several pages of locals, so that its first instructions probe the stack.
#[inline(never)]
fn with_large_locals(block: fn()) {
    let mut much = [0u8; 20_000];
    black_box(&mut much);
    block();
    black_box(&mut much);
}

#[repr(align(128))]
struct Aligned([u8; 128]);

/// Aligns its stack pointer at run time, and so keeps a frame pointer.
#[inline(never)]
fn with_aligned_locals(block: fn()) {
    let mut aligned = Aligned([0; 128]);
    black_box(&mut aligned.0);
    with_large_locals(block);
    black_box(&mut aligned.0);
}

#[inline(never)]
fn starts(block: fn()) {
    with_aligned_locals(block);
    black_box(());
}

/// The functions that call the thread's blocking one, innermost first.
const CALLERS: [&str; 3] = ["with_large_locals", "with_aligned_locals", "starts"];

fn functions(raw: &RawStack) -> Vec<u64> {
    let start = |&address: &u64| Some(raw.modules.find(address)?.function(address)?.start);
    raw.chain.addresses.iter().map(|address| start(address).unwrap_or(0)).collect()
}

fn check(name: &str, block: fn()) {
    let subject = std::mem::ManuallyDrop::new(Subject::start(move |_| starts(block)));
    let target = subject.target;
    let start = Instant::now();
    let mut capturer = Capturer::default();
    let blocked = || matches!(procfs::syscall(target.tid), Some(SyscallState::Waiting { .. }));
    let settled = || {
        let ran = procfs::ran(target.tid);
        thread::sleep(Duration::from_millis(20));
        blocked() && procfs::ran(target.tid) == ran
    };
    while !settled() {
        assert!(start.elapsed() < Duration::from_secs(60), "{name} does not block: {:?}", procfs::syscall(target.tid));
    }
    let regs = loop {
        match copy_by_signal(target, &mut capturer.copy) {
            Ok(regs) => break regs,
            // The thread was woken by the signal, and waits for a CPU.
            Err(why) => {
                assert!(start.elapsed() < Duration::from_secs(60), "{name}: the signal is not answered: {why:?}")
            }
        }
    };
    let modules = Modules::current();
    let stack = StackCopy { start: regs.sp, bytes: &capturer.copy };
    let chain = unwind::unwind(&Source { modules: &modules, stack, code: &memory::read }, regs);
    let truth = RawStack { chain, modules, boundary: None };
    assert!(truth.chain.complete, "{name}: {:#}", symbolized(&truth));
    while !settled() {
        assert!(start.elapsed() < Duration::from_secs(60), "{name} does not block again");
    }
    for _ in 0..CAPTURES {
        let state = procfs::syscall(target.tid);
        assert!(matches!(state, Some(SyscallState::Waiting { .. })), "{name} still blocks: {state:?}");
        let raw = capturer.capture_if_current(target, state, || true);
        let raw = raw.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let stacks = || format!("{name}: {:#}\nand not {:#}", symbolized(&raw), symbolized(&truth));
        assert!(raw.is_complete(), "{}", stacks());
        // A call that is restarted after a signal has another instruction pointer.
        assert_eq!(raw.chain.addresses[1..], truth.chain.addresses[1..], "{}", stacks());
        assert_eq!(functions(&raw), functions(&truth), "{}", stacks());
    }
    let stack = symbolized(&truth);
    let own = stack.user_frames().iter().filter(|frame| !frame.library).filter_map(|frame| frame.function.as_deref());
    let own: Vec<_> = own.map(|function| function.rsplit("::").next().unwrap()).collect();
    assert_eq!(own[..4], [&[name], &CALLERS[..]].concat(), "{stack:#}");
}

#[test]
fn stacks_read_from_outside_equal_those_of_the_handler() {
    in_child_process(
        module_path!(),
        "stacks_read_from_outside_equal_those_of_the_handler",
        Duration::from_secs(180),
        || {
            let _held = MUTEX.lock();
            macro_rules! check_all {
            ($($name:ident)*) => { $(check(stringify!($name), $name);)* };
        }
            check_all!(
                sleeps_long locks_a_mutex waits_for_a_condvar receives joins reads_a_pipe writes_to_a_full_pipe polls accepts
                reads_a_socket_with_a_timeout waits_for_a_child
            );
        },
    );
}
