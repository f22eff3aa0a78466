//! The program that the tests read from outside. It is compiled by the tests, and knows nothing of
//! this crate. It ends when its standard input is closed.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::hint::black_box;
use std::io::Read;
use std::time::Duration;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn prctl(option: c_int, value: c_ulong) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn memfd_create(name: *const c_char, flags: u32) -> c_int;
    fn ftruncate(file: c_int, length: c_long) -> c_int;
    fn mmap(at: *mut c_void, size: usize, protection: c_int, flags: c_int, file: c_int, offset: c_long) -> *mut c_void;
    fn ioctl(file: c_int, request: c_ulong, ...) -> c_int;
}

#[inline(never)]
fn sleeps_for_long() {
    std::thread::sleep(Duration::from_secs(black_box(3_600)));
    black_box(());
}

#[inline(always)]
fn inlined_step(value: u64) -> u64 {
    black_box(value).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)
}

#[inline(never)]
fn computes_for_long() {
    let mut value = 1;
    loop {
        value = inlined_step(value);
    }
}

#[inline(never)]
fn waits_for_input() {
    let mut rest = Vec::new();
    drop(std::io::stdin().read_to_end(&mut rest));
    black_box(());
}

/// Starts a thread, and waits until it has its name.
fn start(name: &str, run: fn()) {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = move || {
        send.send(()).unwrap();
        run();
    };
    std::thread::Builder::new().name(name.into()).spawn(thread).unwrap();
    receive.recv().unwrap();
}

/// Maps what looks like the code of a module, whose pages never come: nobody handles their faults.
fn maps_memory_that_never_comes() {
    const SIZE: usize = 64 << 10;
    const SYS_USERFAULTFD: c_long = 323;
    const API: c_ulong = 0xc018_aa3f;
    const REGISTER: c_ulong = 0xc020_aa00;
    const MISSING: u64 = 1;
    const READ_AND_EXECUTE: c_int = 5;
    const SHARED: c_int = 1;
    // SAFETY: a new file and a new mapping, which stay until the program ends.
    unsafe {
        let file = memfd_create(c"module".as_ptr(), 0);
        assert_eq!(ftruncate(file, SIZE as c_long), 0);
        let start = mmap(std::ptr::null_mut(), SIZE, READ_AND_EXECUTE, SHARED, file, 0);
        let faults = syscall(SYS_USERFAULTFD, 0) as c_int;
        let mut api = [0xaa_u64, 0, 0];
        assert_eq!(ioctl(faults, API, api.as_mut_ptr()), 0);
        let mut register = [start as u64, SIZE as u64, MISSING, 0];
        assert_eq!(ioctl(faults, REGISTER, register.as_mut_ptr()), 0);
    }
}

/// Maps a file and changes it, and maps something else in its place when a line is read. That waits
/// until the file is written, with the lock of all mappings.
fn locks_memory(path: &str) {
    const SIZE: usize = 4096;
    const READ_AND_WRITE: c_int = 3;
    const SHARED: c_int = 1;
    const PRIVATE_ANONYMOUS_FIXED: c_int = 0x32;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: a new mapping, which no other code uses.
    let start = unsafe {
        let file = std::os::fd::AsRawFd::as_raw_fd(&file);
        let start = mmap(std::ptr::null_mut(), SIZE, READ_AND_WRITE, SHARED, file, 0);
        assert_ne!(start as isize, -1);
        start.cast::<u8>().write_volatile(1);
        start
    };
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    // SAFETY: it takes the place of the mapping above.
    unsafe { mmap(start, SIZE, READ_AND_WRITE, PRIVATE_ANONYMOUS_FIXED, -1, 0) };
}

/// Threads that come and go, and processes that are forked and run other programs.
fn churns() {
    loop {
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| black_box(vec![1; 100_000]))).collect();
        threads.into_iter().for_each(|thread| drop(thread.join()));
        drop(std::process::Command::new("true").status());
    }
}

/// Runs another program in this process when a line is read.
fn executes_itself() {
    use std::os::unix::process::CommandExt;
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let error = std::process::Command::new(std::env::current_exe().unwrap()).arg("3").exec();
    panic!("{error}");
}

/// Loads a library when its path is read, and sleeps in it.
fn loads_a_library() {
    let mut path = String::new();
    std::io::stdin().read_line(&mut path).unwrap();
    let path = CString::new(path.trim()).unwrap();
    // SAFETY: the library was built for this, and its function has this type.
    let function = unsafe {
        let library = dlopen(path.as_ptr(), 2);
        assert!(!library.is_null());
        std::mem::transmute::<*mut c_void, extern "C" fn()>(dlsym(library, c"sleeps_in_library".as_ptr()))
    };
    println!("loaded");
    function();
}

fn main() {
    let is_set = |option: &str| std::env::args().any(|arg| arg == option);
    let threads = std::env::args().nth(1).map_or(1, |count| count.parse().unwrap());
    (0..threads).for_each(|_| start("sleeper", sleeps_for_long));
    if is_set("computing") {
        start("computer", computes_for_long);
    }
    if is_set("churning") {
        start("churner", churns);
    }
    if is_set("exec") {
        return executes_itself();
    }
    if is_set("never-comes") {
        maps_memory_that_never_comes();
    }
    if is_set("locks-memory") {
        locks_memory(&std::env::args().nth(3).unwrap());
        return waits_for_input();
    }
    if is_set("loading") {
        println!("ready");
        return loads_a_library();
    }
    if is_set("not-dumpable") {
        const PR_SET_DUMPABLE: c_int = 4;
        // SAFETY: no pointer is involved.
        assert_eq!(unsafe { prctl(PR_SET_DUMPABLE, 0) }, 0);
    }
    if is_set("main-exits") {
        start("reader", || {
            println!("ready");
            waits_for_input();
            std::process::exit(0);
        });
        const SYS_EXIT: c_long = 60;
        // SAFETY: it ends this thread alone, of which nothing is needed any more. The C library's
        // function for that would unwind it.
        unsafe { syscall(SYS_EXIT, 0) };
    }
    println!("ready");
    waits_for_input();
}
