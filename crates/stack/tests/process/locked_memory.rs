//! A process that holds the lock of its memory for as long as a file system does not answer.
//!
//! The file system is a program (FUSE) of this test, which answers all requests but writes. A file
//! of it is mapped and changed. Whoever unmaps it then waits for the write, with the lock held.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use pollwatch_stack::{Process, ProcessError};

use super::support::{Folder, PATIENCE, Target, build, capture_waiting, has, named};

/// The numbers of the requests, and of the root folder and the one file in it. The kernel's
/// `include/uapi/linux/fuse.h` describes them.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;
const ROOT: u64 = 1;
const FILE: u64 = 2;
const FILE_SIZE: u64 = 4096;

/// A mount whose file is never written. It is released when this value ends.
struct DeadMount {
    folder: PathBuf,
    has_write: Arc<AtomicBool>,
}

impl DeadMount {
    /// Mounts it; `None` where that is not permitted.
    fn new(folder: &Path) -> Option<DeadMount> {
        let connection = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", connection.as_raw_fd());
        let [target, options] =
            [folder.as_os_str().as_bytes(), options.as_bytes()].map(|text| CString::new(text).unwrap());
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        // SAFETY: all texts are C strings that live until the call returns.
        let result = unsafe {
            libc::mount(c"pollwatch".as_ptr(), target.as_ptr(), c"fuse".as_ptr(), flags, options.as_ptr().cast())
        };
        if result != 0 {
            return None;
        }
        let has_write = Arc::new(AtomicBool::new(false));
        let seen = has_write.clone();
        std::thread::spawn(move || serve(&connection, &seen));
        Some(DeadMount { folder: folder.to_owned(), has_write })
    }
}

impl Drop for DeadMount {
    /// Ends the connection, so that all who wait for it get an error.
    fn drop(&mut self) {
        let target = CString::new(self.folder.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a C string that lives until the call returns.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::MNT_FORCE) };
    }
}

/// A process that has mapped the file. The mount ends first, since the process cannot end before.
struct Scene {
    mount: Option<DeadMount>,
    target: Target,
}

/// Answers requests until the mount ends.
fn serve(connection: &File, has_write: &AtomicBool) {
    let mut request = vec![0u8; 256 << 10];
    loop {
        let len = match (&mut &*connection).read(&mut request) {
            Ok(len) => len,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOENT | libc::EAGAIN)) => continue,
            Err(_) => return,
        };
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        assert!(len >= 40, "a request has a header");
        let (kind, id, node) = (word(4), long(8), long(16));
        let answer = match kind {
            INIT => Ok(init()),
            GETATTR => Ok([&[0; 16][..], &attributes(node)].concat()),
            LOOKUP => Ok([&FILE.to_ne_bytes()[..], &[0; 32], &attributes(FILE)].concat()),
            OPEN => Ok(vec![0; 16]),
            READ => Ok(vec![7; FILE_SIZE as usize]),
            RELEASE => Ok(Vec::new()),
            WRITE => {
                has_write.store(true, Ordering::SeqCst);
                continue;
            }
            FORGET | BATCH_FORGET => continue,
            _ => Err(-libc::ENOSYS),
        };
        let (error, body) = answer.map_or_else(|error| (error, Vec::new()), |body| (0, body));
        let head = [&(16 + body.len() as u32).to_ne_bytes()[..], &error.to_ne_bytes(), &id.to_ne_bytes()].concat();
        if (&mut &*connection).write_all(&[head, body].concat()).is_err() {
            return;
        }
    }
}

/// The answer to the first request: version 7.31, and the largest write.
fn init() -> Vec<u8> {
    let words = [7u32, 31, 0, 0, 0, 128 << 10, 1];
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    body.resize(64, 0);
    body
}

/// The attributes of a node: number, size, blocks, three times, and then words, of which the mode
/// is the fourth and the number of links the fifth.
fn attributes(node: u64) -> Vec<u8> {
    let (size, mode) = if node == ROOT { (0, libc::S_IFDIR | 0o755) } else { (FILE_SIZE, libc::S_IFREG | 0o644) };
    let longs = [node, size, 8, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes);
    let words = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_ne_bytes);
    longs.chain(words).collect()
}

#[test]
fn memory_whose_lock_is_held() {
    let folder = Folder::new();
    let program = build(&folder, &["-Copt-level=3", "-Cdebuginfo=1"]);
    let mount_point = folder.path("mount");
    std::fs::create_dir(&mount_point).unwrap();
    let Some(mount) = DeadMount::new(&mount_point) else {
        return println!("skipped: no file system can be mounted here");
    };
    let target = Target::run(Command::new(&program).args(["1", "locks-memory"]).arg(mount_point.join("file")));
    let has_write = mount.has_write.clone();
    let mut scene = Scene { mount: Some(mount), target };
    let pid = scene.target.pid();
    let mut process = Process::open(pid).unwrap();
    let sleeper = named(&process, "sleeper")[0];
    capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
    writeln!(scene.target.input.as_mut().unwrap(), "lock").unwrap();
    let start = Instant::now();
    while !has_write.load(Ordering::SeqCst) {
        assert!(start.elapsed() < PATIENCE, "the file is written");
        std::thread::sleep(Duration::from_millis(10));
    }
    // All of it ends, although the lock is held for as long as this test wants.
    let (send, receive) = channel();
    let captures = std::thread::spawn(move || {
        let before = process.losses().memory;
        let captured = (0..20).filter(|_| {
            let state = process.folder().syscall(sleeper);
            process.capture_waiting(sleeper, state).is_ok()
        });
        let captured = captured.count();
        let lost = process.losses().memory - before;
        let opened = Process::open(pid).map(drop);
        send.send((captured, lost, opened)).unwrap();
        process
    });
    let (captured, lost, opened) = receive.recv_timeout(PATIENCE).expect("captures end while the lock is held");
    println!("{captured} of 20 were captured, {lost} reads were given up, in {:?}; {opened:?}", start.elapsed());
    assert!(captured == 0 && lost > 0, "the lock was held");
    assert!(matches!(opened, Err(ProcessError::Io { .. })), "{opened:?}");
    drop(scene.mount.take());
    let mut process = captures.join().unwrap();
    capture_waiting(&mut process, sleeper, |raw, stack| raw.is_complete() && has(stack, "sleeps_for_long"));
}
